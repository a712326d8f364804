//! `xip build`: a directory becomes an image.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::{Output, parse_size};

const HELP: &str = "\
The same tree gives the same bytes: nothing in an image comes from the clock or from chance. With
SOURCE_DATE_EPOCH set, no time in the image is later than it.

Needs no root: owners are taken from the tree, or given with --root-owner. An interrupted build
leaves nothing behind.

Examples:
  xip build rootfs/ debian.xip
  xip build rootfs/ debian.xip --root-owner --exclude var/cache --label debian
  xip build site/ site.xip --free 64M --json";

/// Make an image of a directory
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The directory; what is in it becomes the root of the image
    directory: PathBuf,

    /// The image to write. One that exists is replaced only when the new one is complete
    image: PathBuf,

    /// Make the image this large (for example 1G); refused if the content does not fit
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "free")]
    size: Option<u64>,

    /// Leave this much room for files that are added later
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    free: Option<u64>,

    /// Name of the volume, at most 16 bytes
    #[arg(long)]
    label: Option<String>,

    /// UUID of the volume. Without it, one that is made from the content
    #[arg(long)]
    uuid: Option<String>,

    /// Everything belongs to root (0:0), or to the owner given
    #[arg(long, value_name = "UID:GID", num_args = 0..=1, require_equals = true, default_missing_value = "0:0",
          value_parser = parse_owner)]
    root_owner: Option<(u32, u32)>,

    /// Leave out what matches: a path in the tree, or a pattern with `*` and `?` (may be given many times)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("`{text}` is not UID:GID, such as 0:0");
    let (uid, gid) = text.split_once(':').ok_or_else(wrong)?;
    Ok((uid.parse().map_err(|_| wrong())?, gid.parse().map_err(|_| wrong())?))
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
