//! `xip build`: a directory becomes an image.

use std::io::ErrorKind::PermissionDenied;
use std::path::PathBuf;

use xip_image::{Build, IdRange, Info, Owner, Pattern};

use crate::failure::{FAILED, Failure, USAGE};
use crate::output::{Output, count, parse_size, percent, printable, size};
use crate::progress::Progress;
use crate::signals::Interrupt;

const HELP: &str = "\
The same tree gives the same bytes: nothing in an image comes from the clock or from chance. With \
SOURCE_DATE_EPOCH set, no time in the image is later than it.\n\n\
Needs no root: owners are taken from the tree, or given with --owner. An interrupted build leaves \
nothing behind.\n\n\
Examples:
  xip build rootfs/ debian.xip
  xip build rootfs/ debian.xip --owner 0:0 --exclude /var/cache --label debian
  xip build site/ site.xip --free 64M --json";

/// Make an image of a directory
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The directory; what is in it becomes the root of the image
    directory: PathBuf,

    /// The image to write. One that exists is replaced only when the new one is complete
    image: PathBuf,

    /// Make the image this large (for example 1G), rounded up to a multiple of 2 MiB; refused if the content does not fit
    #[arg(long, value_parser = parse_size, conflicts_with = "free")]
    size: Option<u64>,

    /// Leave this much room for files that are added later
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    free: Option<u64>,

    /// Name of the volume, at most 16 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,

    /// UUID of the volume. Without it, one made from names and attributes
    #[arg(long, value_parser = parse_uuid)]
    uuid: Option<[u8; 16]>,

    /// Everything belongs to this user and group (0:0 for a tree that was unpacked without root)
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner, conflicts_with_all = ["map_user", "map_group"])]
    owner: Option<(u32, u32)>,

    /// COUNT users from FROM on become those from TO on (may be given many times)
    #[arg(long, value_name = "FROM:TO:COUNT", value_parser = parse_range)]
    map_user: Vec<IdRange>,

    /// The same for groups
    #[arg(long, value_name = "FROM:TO:COUNT", value_parser = parse_range)]
    map_group: Vec<IdRange>,

    /// The root directory itself belongs to this user and group, or to 0:0
    #[arg(long, value_name = "UID:GID", num_args = 0..=1, require_equals = true, default_missing_value = "0:0",
          value_parser = parse_owner)]
    root_owner: Option<(u32, u32)>,

    /// Leave out what matches: a name, or a path in the tree if there is a slash in it; with `*`, `**`, `?` and
    /// `[a-z]` (may be given many times)
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern)]
    exclude: Vec<Pattern>,

    /// Do not wait until the image is on storage: faster, but a loss of power may leave half of it
    #[arg(long)]
    no_sync: bool,

    /// Put an NVDIMM header of 2 MiB in front of the volume, for hypervisors that show an image as an NVDIMM (QEMU's nvdimm, Kata)
    #[arg(long)]
    nvdimm_header: bool,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    match numbers(text)?.as_slice() {
        // The last number of 32 bits means nobody at all.
        [u32::MAX, _] | [_, u32::MAX] => Err(format!("{} is no user or group", u32::MAX)),
        [uid, gid] => Ok((*uid, *gid)),
        _ => Err("not UID:GID, such as 0:0".into()),
    }
}

fn parse_range(text: &str) -> Result<IdRange, String> {
    match numbers(text)?.as_slice() {
        [from, to, count] => Ok(IdRange { from: *from, to: *to, count: *count }),
        _ => Err("not FROM:TO:COUNT, such as 1000:0:1".into()),
    }
}

fn numbers(text: &str) -> Result<Vec<u32>, String> {
    text.split(':').map(|number| number.parse().map_err(|_| format!("`{number}` is not a number"))).collect()
}

fn parse_uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let wrong = || "not 32 hexadecimal digits, with or without dashes".to_owned();
    // A sign is no digit, though numbers may have one.
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(|_| wrong())
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text.as_bytes())
}

/// What the reproducible-builds project asks of every tool that writes times.
fn source_date_epoch() -> Result<Option<i64>, Failure> {
    let Some(value) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    let wrong = || Failure::new(format!("SOURCE_DATE_EPOCH is {value:?}")).remedy("set it to seconds since 1970");
    seconds.map(Some).ok_or_else(wrong)
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let build = Build {
            size: self.size,
            free: self.free,
            label: self.label,
            uuid: self.uuid,
            owner: match self.owner {
                Some((uid, gid)) => Owner::All(uid, gid),
                None => Owner::Map { users: self.map_user, groups: self.map_group },
            },
            root_owner: self.root_owner,
            exclude: self.exclude,
            source_date_epoch: source_date_epoch()?,
            sync: !self.no_sync,
            nvdimm_header: self.nvdimm_header,
            ..Build::default()
        };
        let progress = Progress::new(&Interrupt::catch()?);
        let built = build.run(&self.directory, &self.image, &progress);
        let summary = built.map_err(|error| {
            let code = if matches!(error, xip_image::Error::Option { .. }) { USAGE } else { FAILED };
            let unreadable =
                matches!(&error, xip_image::Error::Source { error, .. } if error.kind() == PermissionDenied);
            let failure = progress.failure(error).with_code(code);
            if unreadable {
                return failure.remedy("build as a user who may read it, or leave it out by `--exclude`");
            }
            failure
        })?;
        drop(progress);
        if self.json {
            return output.json(&summary);
        }
        for note in &summary.notes {
            output.aside(format!("left out {}: {}", printable(&note.path), printable(&note.what)));
        }
        let Info { bytes, geometry, files, runs, density, .. } = &summary.info;
        output.line(format!(
            "{}: {}, {} and {}, {} of the files in one run, {} free",
            printable(&self.image.to_string_lossy()),
            size(*bytes),
            count(files.regular, "file", "files"),
            count(files.directories, "directory", "directories"),
            percent(runs.one_run + runs.empty, files.regular),
            size(density.free_blocks * u64::from(geometry.block_size)),
        ))
    }
}
