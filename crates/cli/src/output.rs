//! How results look: tables for people, JSON for programs, colours only where a terminal shows them.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::{Doing, Failure};
use crate::signals::Interrupt;

/// Standard output.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) paint: Paint,
}

impl Output {
    pub(crate) fn new() -> Self {
        Output { paint: Paint::new(io::stdout().is_terminal()) }
    }

    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bytes(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// A word beside the result, on standard error. If that is closed there is nobody to tell.
    pub(crate) fn aside(self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr(), "xip: {}", text.as_ref());
    }

    pub(crate) fn table(self, table: &Table) -> Result<(), Failure> {
        self.bytes(table.text(self.paint).as_bytes())
    }

    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::reader_gone(),
            _ => Failure::from(error).while_doing("cannot write to standard output"),
        })
    }
}

/// Colours, or none.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours when the stream is a terminal that can show them, and nobody said no (<https://no-color.org>).
    pub(crate) fn new(terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Paint { on: terminal && !unwanted }
    }

    /// No colours.
    pub(crate) fn none() -> Self {
        Paint { on: false }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
}

/// Rows under headings; numbers stand right, words stand left.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    total: Option<Vec<String>>,
}

impl Table {
    /// A heading that begins with `>` is a column of numbers.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Table {
            headings: headings.iter().map(|heading| heading.trim_start_matches('>')).collect(),
            right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: Vec::new(),
            total: None,
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The last row, set off by a rule.
    pub(crate) fn total(&mut self, cells: impl IntoIterator<Item = String>) {
        self.total = Some(cells.into_iter().collect());
    }

    pub(crate) fn text(&self, paint: Paint) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain(&self.total).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([self.headings[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let lay_out = |cells: &[String]| {
            let mut line = String::new();
            for ((cell, width), right) in cells.iter().zip(&widths).zip(&self.right) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line += &format!("{before}{cell}{after}  ");
            }
            line.trim_end().to_owned()
        };
        let headings: Vec<String> = self.headings.iter().map(ToString::to_string).collect();
        let mut text = paint.bold(&lay_out(&headings)) + "\n";
        for row in &self.rows {
            text += &(lay_out(row) + "\n");
        }
        if let Some(total) = &self.total {
            let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
            text += &format!("{rule}\n{}\n", paint.bold(&lay_out(total)));
        }
        text
    }
}

/// Bytes as a person reads them: `12.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = 0;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut whole = bytes;
    let mut rest = 0;
    while whole >= 1024 {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 || whole >= 100 {
        format!("{whole} {}", units[unit])
    } else {
        format!("{whole}.{} {}", rest * 10 / 1024, units[unit])
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// What share `part` is of `whole`: `97.5 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 1000).checked_div(u128::from(whole)) {
        Some(thousandths) => format!("{}.{} %", thousandths / 10, thousandths % 10),
        None => "-".to_owned(),
    }
}

/// Many characters a terminal would act on are not printed as they are: names come from images.
pub(crate) fn printable(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A file that a result goes to: looked at before the work, so that the work is not lost for want of it; a regular one is written
/// beside what has its name and then takes its place.
pub(crate) struct NewFile {
    path: PathBuf,
    /// A device or pipe, which is written to as it is.
    special: Option<fs::File>,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        // What a link leads to is the file.
        let file = Self { path: path.canonicalize().unwrap_or_else(|_| path.into()), special: None };
        let _caught = Interrupt::catch();
        if fs::metadata(&file.path).is_ok_and(|known| !known.is_file()) {
            let special = fs::File::options().write(true).open(&file.path).map(Some).doing(|| file.what())?;
            return Ok(Self { special, ..file });
        }
        file.beside()?;
        Ok(file)
    }

    /// Signals are held back meanwhile, so that nothing half-written stays.
    pub(crate) fn write(mut self, bytes: &[u8]) -> Result<(), Failure> {
        let _caught = Interrupt::catch();
        let Some(special) = &mut self.special else {
            let mut beside = self.beside()?;
            let written = beside.write_all(bytes);
            let placed = written.and_then(|()| beside.persist(&self.path).map(drop).map_err(|error| error.error));
            return placed.doing(|| self.what());
        };
        special.write_all(bytes).doing(|| format!("cannot write {}", self.path.display()))
    }

    fn what(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    fn beside(&self) -> Result<tempfile::NamedTempFile, Failure> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        // The name of this file is of no use in a message.
        let made = builder.permissions(Permissions::from_mode(0o666)).tempfile_in(directory);
        made.map_err(|error| io::Error::from(error.kind())).doing(|| self.what())
    }
}

/// A word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A size on the command line: bytes, or with `K`, `M`, `G`, `T` (also `KiB`, `MiB`, ...): powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        other => return Err(format!("unknown unit `{other}`: use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size such as 64M or 2G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than can be addressed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_and_are_refused_with_the_reason() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("5X").is_err_and(|why| why.contains("unit")));
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999T").is_err_and(|why| why.contains("addressed")));
    }

    #[test]
    fn sizes_are_short_and_never_rounded_up() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size((200 << 20) - 1), "199 MiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn numbers_stand_right_under_their_heading_and_no_colour_means_no_escape() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["a".into(), "1 B".into()]);
        table.row(["long".into(), "100 MiB".into()]);
        assert_eq!(table.text(Paint { on: false }), "name     size\na         1 B\nlong  100 MiB\n");
    }

    #[test]
    fn names_from_an_image_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
