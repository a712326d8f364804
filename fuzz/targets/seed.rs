//! Turns images, of at most 1 MiB, into inputs of the target `hostile`: `seed IMAGE INPUT`.

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(image), Some(input)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("usage: seed IMAGE INPUT"));
    };
    let image = std::fs::read(image)?;
    let written = xip_fuzz::image::encode(&image);
    assert_eq!(xip_fuzz::image::decode(&written).as_deref(), Some(&image[..]), "what is written down is the image");
    std::fs::write(input, written)
}
