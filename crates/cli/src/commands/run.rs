//! `xip run`: a program from an image, executed in place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::ValueEnum;
use clap::builder::{OsStringValueParser, TypedValueParser};
use xip_run::{Bind, End, Options, Report, Root};
use xip_segment::{Lease, Segment, Store};

use super::segments;
use crate::failure::{Doing, Failure, USAGE};
use crate::output::{Output, Paint, Table, count, printable, size};
use crate::signals::die_by;

const HELP: &str = "\
The program sees the image as its root directory, read-only, with /proc, /dev, /sys and /tmp. Its text, that \
of its libraries, and every other file it maps, is the segment itself. It needs no root: user namespaces and \
/dev/fuse are enough.\n\n\
What stands before PROGRAM is a segment if there is one of that name, otherwise an image. An image is loaded \
first, under its own name, and stays loaded (see `xip ls`) unless --rm is given.\n\n\
Exit status: the program's own. If a signal ended it, xip ends by the same signal (a shell shows 128 + its \
number). 125: xip itself failed; 126: the program, or its interpreter, cannot be executed; 127: it is not in the image.\n\n\
Examples:
  xip run debian -- python3 -c 'print(6 * 7)'
  xip run debian.xip --bind $PWD:/work --workdir /work -- gcc -O2 -c main.c
  xip run debian --root -- sh -c 'echo gone afterwards > /etc/motd'
  xip run debian --report -- perl -e 1";

/// Run a program from an image or a segment, in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The program and its arguments. Without a slash it is looked for on PATH, in the image
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    program: Vec<OsString>,

    /// Show a directory or file of this machine inside, writable unless `:ro` is added (may be given many times)
    #[arg(long, value_name = "HOST:INSIDE[:ro|:rw]", value_parser = OsStringValueParser::new().try_map(parse_bind))]
    bind: Vec<Bind>,

    /// Set an environment variable; without `=VALUE`, remove it (may be given many times)
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = OsStringValueParser::new().try_map(parse_env))]
    env: Vec<OsString>,

    /// Directory inside in which the program starts
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    workdir: PathBuf,

    /// What the root directory is: `overlay` takes changes, in memory, and forgets them at the end
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "read-only",
          default_missing_value = "overlay")]
    root: RootMode,

    /// At the end, tell what was mapped in place and what was not, and why (to standard error, or to FILE)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    report: Option<PathBuf>,

    /// Make the report JSON; without --report, on standard error
    #[arg(long)]
    json: bool,

    /// Do not trace the program: its files come from the page cache (for debuggers, and to compare)
    #[arg(long)]
    page_cache: bool,

    /// Remove the segment at the end, however that comes, if this command loaded it
    #[arg(long)]
    rm: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RootMode {
    ReadOnly,
    Overlay,
}

fn parse_bind(text: OsString) -> Result<Bind, String> {
    let bind = Bind::parse(&text).map_err(|error| error.to_string())?;
    // `/` by whatever name: what comes over it hides the image, and the program is not found.
    if !bind.inside.components().any(|part| matches!(part, Component::Normal(_))) {
        return Err("the root directory inside is the image; bind to a directory below it".into());
    }
    Ok(bind)
}

fn parse_env(text: OsString) -> Result<OsString, String> {
    match text.as_bytes().first() {
        None | Some(b'=') => Err("a variable needs a name: NAME=VALUE sets it, NAME removes it".into()),
        Some(_) => Ok(text),
    }
}

/// Exit codes of those who run programs for others, as `env` and `timeout` have them.
pub(crate) const OUR_OWN: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        match self.execute(output).map_err(|failure| failure.or_code(OUR_OWN))? {
            End::Exited(status) => Ok(ExitCode::from(status.to_le_bytes()[0])),
            End::Signalled(signal) => Ok(ExitCode::from(die_by(signal))),
        }
    }

    fn execute(self, output: Output) -> Result<End, Failure> {
        let options = self.options()?;
        // Before the program runs: its work is not to be lost for want of a place for the report.
        let mut report = match self.report.as_deref().or(self.json.then_some(Path::new("-"))) {
            Some(path) if path.as_os_str() != "-" => {
                Some(Box::new(File::create(path).doing(|| format!("cannot write the report to {}", path.display()))?)
                    as Box<dyn Write>)
            }
            Some(_) => Some(Box::new(io::stderr()) as Box<dyn Write>),
            None => None,
        };
        let store = segments::store()?;
        let store = if self.rm { store.temporary() } else { store };
        let (segment, lease) = self.segment(&store, output)?;
        self.log(&segment);
        let start = Instant::now();
        let outcome = {
            let volume = xip::Volume::from_segment(&segment)?;
            xip_run::run(&volume, segment.fd(), &options)
        };
        drop(segment);
        // Who else uses it by now keeps it until they end, and who has loaded it meanwhile for longer.
        if let Some(lease) = lease {
            lease.end();
        }
        let outcome = outcome.map_err(|error| self.failure(error))?;
        let Report { programs, mappings_in_place, bytes_in_place, .. } = outcome.report;
        let end = match outcome.end {
            End::Exited(status) => format!("with status {status}"),
            End::Signalled(signal) => format!("by signal {signal}"),
        };
        tracing::info!(
            "the program ended {end} after {:.1?}: {} started, {bytes_in_place} bytes in place in {}",
            start.elapsed(),
            count(programs, "program", "programs"),
            count(mappings_in_place, "mapping", "mappings")
        );
        if let Some(to) = &mut report {
            let text = if self.json { serde_json::to_string_pretty(&outcome)? + "\n" } else { text(&outcome.report) };
            // The program's work is done, and its status is what the caller waits for.
            if let Err(error) = to.write_all(text.as_bytes()) {
                let _ = writeln!(io::stderr(), "warning: cannot write the report: {error}");
            }
        }
        Ok(outcome.end)
    }

    /// What is run, and in what surroundings.
    fn log(&self, segment: &Segment) {
        let (info, workdir) = (segment.info(), self.workdir.display());
        let in_place = if self.page_cache { "from the page cache" } else { "in place" };
        tracing::info!("running {:?} {in_place}, from segment {} ({} bytes)", self.program, info.name, info.size);
        tracing::debug!("the segment is {}, of content {}", info.image.display(), info.content);
        // To find out takes processes: only for those who want to know.
        if tracing::enabled!(tracing::Level::DEBUG) {
            let missing: Vec<_> = xip_run::prerequisites(self.page_cache).iter().map(ToString::to_string).collect();
            let missing = if missing.is_empty() { "nothing".to_owned() } else { missing.join("; ") };
            tracing::debug!("missing here for this: {missing}");
        }
        let root = if self.root == RootMode::Overlay { "an overlay" } else { "read-only" };
        tracing::debug!(
            "the volume is served over FUSE as the root directory, {root}; the program starts in {workdir}"
        );
        for Bind { host, inside, read_only } in &self.bind {
            let how = if *read_only { ", read-only" } else { "" };
            tracing::debug!("{} is shown at {}{how}", host.display(), inside.display());
        }
    }

    fn options(&self) -> Result<Options, Failure> {
        let mut program = self.program.iter().cloned();
        let name = program.next().filter(|name| !name.is_empty());
        let nameless = || Failure::new("the name of the program is empty").with_code(USAGE);
        let mut options = Options::new(name.ok_or_else(nameless)?);
        options.arguments = program.collect();
        options.workdir.clone_from(&self.workdir);
        for bind in &self.bind {
            let (host, inside) = (bind.host.display(), bind.inside.display());
            bind.host.metadata().doing(|| format!("--bind {host}:{inside}: {host} cannot be used on this machine"))?;
        }
        options.binds.clone_from(&self.bind);
        options.root = self.root.into();
        options.page_cache = self.page_cache;
        for variable in &self.env {
            let bytes = variable.as_bytes();
            match bytes.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    options.set_env(OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]).into()))
                }
                None => options.set_env(variable, None),
            }
        }
        Ok(options)
    }

    /// The exit code for what went wrong, and what to do about it.
    fn failure(&self, error: xip_run::Error) -> Failure {
        let (code, remedy) = match &error {
            xip_run::Error::NotFound { .. } => (NOT_FOUND, self.root_remedy(&self.program[0])),
            xip_run::Error::NotExecutable { .. } | xip_run::Error::NoInterpreter { .. } => (NOT_EXECUTABLE, None),
            xip_run::Error::Setup { step, .. } if *step == format!("enter {}", self.workdir.display()) => {
                let remedy = "--workdir is a directory in the image: name another, or show one there by --bind";
                (OUR_OWN, Some(remedy.to_owned()))
            }
            _ => (OUR_OWN, None),
        };
        let failure = Failure::from(error).with_code(code);
        match remedy {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }

    /// `--root overlay` means a program or segment `overlay`, which probably nobody wanted.
    fn root_remedy(&self, name: &OsStr) -> Option<String> {
        let mode = name.to_str().filter(|name| RootMode::from_str(name, false).is_ok())?;
        (self.root == RootMode::Overlay).then(|| format!("--root={mode}"))
    }

    /// The segment to run from, and the lease of one that was loaded for this run only.
    fn segment(&self, store: &Store, output: Output) -> Result<(Segment, Option<Lease>), Failure> {
        let named =
            segments::named(store, &self.source).map_err(|failure| match self.root_remedy(self.source.as_os_str()) {
                Some(remedy) => failure.remedy(remedy),
                None => failure,
            });
        if let Some(segment) = named? {
            return Ok((segments::sealed(segment)?, None));
        }
        // To load takes time and memory, for nothing where programs cannot run.
        if let Some(missing) = xip_run::prerequisites(self.page_cache).into_iter().next() {
            return Err(self.failure(missing));
        }
        let loaded = segments::load(store, &self.source, None)?;
        let new = loaded.outcome == xip_segment::Outcome::New || loaded.also.is_some();
        if new && !self.rm && io::stderr().is_terminal() {
            let name = loaded.segment.name();
            output.aside(format!("loaded segment {name}; `xip rm {name}` gives its memory back"));
        }
        Ok((loaded.segment, loaded.lease))
    }
}

impl From<RootMode> for Root {
    fn from(mode: RootMode) -> Self {
        match mode {
            RootMode::ReadOnly => Root::ReadOnly,
            RootMode::Overlay => Root::Overlay,
        }
    }
}

/// The report for people.
fn text(report: &Report) -> String {
    let mut text = format!(
        "in place: {} in {} mappings; not in place: {}; programs: {}\n",
        size(report.bytes_in_place),
        report.mappings_in_place,
        size(report.bytes_not_in_place),
        report.programs
    );
    if !report.traced {
        text += "the program was not traced: all of its files came from the page cache\n";
    }
    if report.refused_ptrace > 0 {
        let times = count(report.refused_ptrace, "time", "times");
        text += &format!("the program asked {times} to trace, which was refused\n");
    }
    let mut table = Table::new(&["file", ">in place", ">mappings", "not in place"]);
    for (path, file) in &report.files {
        let why: Vec<_> =
            file.not_in_place.iter().map(|(reason, bytes)| format!("{reason}: {}", size(*bytes))).collect();
        table.row([printable(path), size(file.bytes_in_place), file.mappings_in_place.to_string(), why.join(", ")]);
    }
    if !report.files.is_empty() {
        text += &table.text(Paint::none());
    }
    text
}
