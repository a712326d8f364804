//! What the bytes of an input of `operations` or `facade` stand for: names, places and lengths at which something happens.

use xip_core::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Names that are alike and names that are not, long ones most of all so that directories grow; and such as cannot be.
    pub(crate) fn name(&mut self) -> Option<Vec<u8>> {
        let n = self.byte()?;
        Some(match n {
            250 => Vec::new(),
            251 => b".".to_vec(),
            252 => b"..".to_vec(),
            253 => vec![b'x'; 256],
            254 => b"a/b".to_vec(),
            255 => b"zero\0".to_vec(),
            _ => {
                let n = n % 64;
                let mut name = format!("{n}").into_bytes();
                name.resize([2, 9, 120, 255][usize::from(n % 4)], b'_');
                name
            }
        })
    }

    /// Places at and around the edges of a file's map of blocks.
    pub(crate) fn offset(&mut self) -> Option<u64> {
        let pages = [0, 0, 1, 2, 11, 12, 13, 12 + 1023, 12 + 1024, 12 + 1024 + 1024 * 1023, 12 + 1024 + 1024 * 1024];
        let page = pages[usize::from(self.byte()?) % pages.len()];
        let within = [0, 1, 4095, 10, 2048][usize::from(self.byte()?) % 5];
        Some(page * PAGE + within)
    }

    pub(crate) fn len(&mut self) -> Option<usize> {
        let lens = [0, 1, 10, 4095, 4096, 4097, 5000, 8192, 20_000, 60_000];
        Some(lens[usize::from(self.byte()?) % lens.len()])
    }

    pub(crate) fn permissions(&mut self) -> Option<u16> {
        Some([0o644, 0o755, 0o4755, 0o2755, 0o2644, 0o7777, 0, 0o1777][usize::from(self.byte()?) % 8])
    }

    pub(crate) fn attribute(&mut self) -> Option<Vec<u8>> {
        let names: [&[u8]; 8] =
            [b"user.a", b"user.b", b"trusted.c", b"security.d", &[b'u'; 256], b"bogus.e", b"user.", b""];
        let n = self.byte()?;
        Some(if n % 16 >= 8 {
            format!("user.{:_<200}", n / 16).into_bytes()
        } else {
            names[usize::from(n % 8)].to_vec()
        })
    }
}
