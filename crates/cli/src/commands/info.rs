//! `xip info`: what an image is like, before anybody loads it.

use std::path::PathBuf;

use xip_image::Info;

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, count, percent, printable, size};

const HELP: &str = "\
Examples:
  xip info debian.xip
  xip info debian.xip --json | jq .files";

/// Describe an image: geometry, features, and how well it can be mapped in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let info = xip_image::info(&self.image).map_err(|error| self.failure(error))?;
        if self.json {
            return output.json(&info);
        }
        let Info { geometry, files, runs, density, .. } = &info;
        let blocks = |count: u64| size(count * u64::from(geometry.block_size));
        let in_place = match &info.not_in_place {
            None => "can be used in place".to_owned(),
            Some(why) => format!("cannot be used in place: {}", printable(why)),
        };
        let lines = [
            ("image", format!("{}, {}", printable(&info.image.to_string_lossy()), size(info.bytes))),
            ("volume", format!("{} {}", info.uuid, printable(&info.label))),
            ("in place", in_place),
            (
                "geometry",
                format!(
                    "{} of {} bytes in {}; {} of {} bytes, {} free",
                    count(geometry.blocks.into(), "block", "blocks"),
                    geometry.block_size,
                    count(geometry.groups.into(), "group", "groups"),
                    count(geometry.inodes.into(), "inode", "inodes"),
                    geometry.inode_size,
                    geometry.free_inodes
                ),
            ),
            ("features", info.features.join(" ")),
            (
                "files",
                format!(
                    "{} regular, {}, {}, {}, {}, {}; {}",
                    files.regular,
                    count(files.directories, "directory", "directories"),
                    count(files.symlinks, "link", "links"),
                    count(files.devices, "device", "devices"),
                    count(files.fifos, "fifo", "fifos"),
                    count(files.sockets, "socket", "sockets"),
                    count(files.hard_links, "further name", "further names")
                ),
            ),
            (
                "one run",
                format!(
                    "{}; {} cut, {} empty, {} sparse",
                    count(runs.one_run, "file", "files"),
                    runs.cut,
                    runs.empty,
                    runs.sparse
                ),
            ),
            (
                "2 MiB pages",
                format!(
                    "{} in {}, of {} large enough",
                    runs.huge_pages,
                    count(runs.huge_files, "file", "files"),
                    runs.large_files
                ),
            ),
            (
                "density",
                format!(
                    "{} content, {} names and maps, {} format, {} free ({} of the image)",
                    size(density.content_bytes),
                    blocks(density.metadata_blocks),
                    blocks(density.format_blocks),
                    blocks(density.free_blocks),
                    percent(density.free_blocks, geometry.blocks.into())
                ),
            ),
        ];
        for (name, value) in lines {
            output.line(format!("{name:<12} {}", value.trim_end()))?;
        }
        Ok(())
    }
    /// Nearly every other command takes the name of a segment.
    fn failure(&self, error: xip_image::Error) -> Failure {
        let failure = Failure::from(error);
        let segment = || segments::named(&segments::store().ok()?, &self.image).ok()?;
        match (!self.image.exists()).then(segment).flatten() {
            Some(segment) => {
                let (name, image) = (segment.name(), printable(&segment.info().image.to_string_lossy()));
                failure.remedy(format!("{name} is a segment: `xip stat {name}`, or `xip info {image}`"))
            }
            None => failure,
        }
    }
}
