//! `xip stat`: who shares a segment, and what that saves, from the kernel's own figures.

use xip_segment::stat::{Mapper, Role};
use xip_segment::{Segment, Stat};

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, Table, count, printable, size};

const HELP: &str = "\
Every figure is the kernel's (/proc/PID/smaps and the like). Processes of other users are counted only as far \
as the kernel lets you look at them. A guest is the process of its hypervisor, and what it has is what was touched inside. The \
process of `xip run` that serves the files is shown, and counts in no sum.\n\n\
Examples:
  xip stat
  xip stat debian
  xip stat debian --json | jq .processes";

/// Show who shares a segment and what that saves
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The segment; without one, all of them
    name: Option<String>,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        match &self.name {
            Some(name) => {
                let stat = segments::store()?.get(name)?.stat()?;
                if self.json { output.json(&stat) } else { one(&stat, output) }
            }
            None => {
                let stats = segments::list(output)?.iter().map(Segment::stat).collect::<Result<Vec<_>, _>>()?;
                match (self.json, stats.is_empty()) {
                    (true, _) => output.json(&stats),
                    (false, true) => Ok(()),
                    (false, false) => all(&stats, output),
                }
            }
        }
    }
}

fn all(stats: &[Stat], output: Output) -> Result<(), Failure> {
    let mut table = Table::new(&["segment", ">size", ">resident", ">programs", ">guests", ">in place", ">saved"]);
    for stat in stats {
        let in_place = stat.sharers().map(|mapper| mapper.in_place).sum();
        table.row([
            stat.info.name.clone(),
            size(stat.info.size),
            size(stat.resident),
            stat.programs().count().to_string(),
            stat.guests().count().to_string(),
            size(in_place),
            size(stat.saved),
        ]);
    }
    output.table(&table)
}

fn one(stat: &Stat, output: Output) -> Result<(), Failure> {
    let why_not = stat.huge.why_not.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    output.line(format!("segment     {}, from {}", stat.info.name, printable(&stat.info.image.to_string_lossy())))?;
    if stat.info.exclusive {
        output.line("exclusive   it can be written: by one, or read by many")?;
    }
    if stat.info.replaced {
        output.line("replaced    by a newer generation: it goes with its last user")?;
    }
    output.line(format!(
        "memory      {}: {} resident, {} swapped out, {} in huge pages{why_not}",
        size(stat.info.size),
        size(stat.resident),
        size(stat.swapped),
        size(stat.huge.bytes)
    ))?;
    let (one, more) = if stat.guests().next().is_some() {
        ("program or guest", "programs and guests")
    } else {
        ("program", "programs")
    };
    for shared in &stat.shared {
        let what = if shared.processes == 1 { "not shared" } else { "shared" };
        output.line(format!("{what:<12}{} by {}", size(shared.bytes), count(shared.processes.into(), one, more)))?;
    }
    output.line(format!("saved       {} against a copy for each", size(stat.saved)))?;
    if stat.not_visible > 0 {
        output.line(format!("not seen    {} of others", count(stat.not_visible, "process", "processes")))?;
    }
    if stat.processes.is_empty() { output.line("nobody maps it now") } else { output.table(&processes(stat)) }
}

/// Who maps it.
pub(crate) fn processes(stat: &Stat) -> Table {
    let mut table =
        Table::new(&["process", ">pid", "role", ">mapped", ">in place", ">its share", ">copied", ">huge pages"]);
    for mapper in &stat.processes {
        table.row([
            printable(&mapper.user.command),
            mapper.user.pid.to_string(),
            role(mapper).to_owned(),
            size(mapper.mapped),
            size(mapper.in_place),
            size(mapper.proportional),
            size(mapper.copied),
            size(mapper.huge),
        ]);
    }
    table
}

fn role(mapper: &Mapper) -> &'static str {
    match mapper.user.role {
        Role::Uses => "uses",
        Role::Guest => "guest",
        Role::Serves => "serves",
    }
}
