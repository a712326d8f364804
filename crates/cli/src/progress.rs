//! A progress bar that shows itself only where it helps: on a terminal, for work of more than a second. It also
//! carries Ctrl-C to the work.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use xip_image::Phase;

use crate::failure::Failure;
use crate::output::count;
use crate::signals::Interrupt;

/// How long work may take before it is worth a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bar on standard error. It is gone when dropped, so that nothing is left between the lines of a result.
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: AtomicBool,
    interrupt: Option<Interrupt>,
    /// The phase of a build, and when it began.
    phase: Mutex<Option<(Phase, Instant)>>,
}

impl Progress {
    pub(crate) fn new(interrupt: &Interrupt) -> Self {
        let mut progress = Progress::without_interrupt("");
        progress.interrupt = Some(interrupt.clone());
        progress
    }

    /// For work that Ctrl-C may end as it stands.
    pub(crate) fn without_interrupt(what: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let progress = Progress {
            bar,
            since: Instant::now(),
            shown: AtomicBool::new(false),
            interrupt: None,
            phase: Mutex::default(),
        };
        progress.begin(what, 1, true);
        progress
    }

    /// For a few long steps, which Ctrl-C may end as they stand.
    pub(crate) fn of_steps(what: &'static str) -> Self {
        let progress = Progress::without_interrupt(what);
        progress.begin(what, 1, false);
        progress.shown.store(true, Ordering::Relaxed);
        progress.bar.set_draw_target(ProgressDrawTarget::stderr());
        progress
    }

    /// So many bytes, or steps, are done, of so many.
    pub(crate) fn at(&self, done: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(done);
        self.show();
    }

    /// Begins a part of the work; `total` is 0 where it is not known.
    fn begin(&self, what: &'static str, total: u64, bytes: bool) {
        let template = match (total, bytes) {
            (0, _) => "{msg} {pos}",
            (_, false) => "{msg} {wide_bar} {pos}/{len}",
            (_, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.set_message(what);
        self.bar.reset();
        self.bar.set_length(total);
    }

    fn add(&self, by: u64) {
        self.bar.inc(by);
        self.show();
    }

    fn show(&self) {
        if self.since.elapsed() > PATIENCE && !self.shown.swap(true, Ordering::Relaxed) {
            // Draws only if standard error is a terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Another phase of a build begins, or none: logs what the last one did.
    fn next_phase(&self, next: Option<Phase>) {
        let next = next.map(|phase| (phase, Instant::now()));
        let Ok(mut phase) = self.phase.lock() else { return };
        let Some((last, since)) = std::mem::replace(&mut *phase, next) else { return };
        let (time, done) = (since.elapsed(), self.bar.position());
        match last {
            Phase::Scan => tracing::info!("found {} in {time:.1?}", count(done, "entry", "entries")),
            Phase::Names => tracing::info!("made {} in {time:.1?}", count(done, "name", "names")),
            Phase::Data => tracing::info!("copied {} of data in {time:.1?}", count(done, "byte", "bytes")),
            Phase::Sync => tracing::info!("waited {time:.1?} for the storage"),
        }
    }

    fn asked(&self) -> Option<i32> {
        self.interrupt.as_ref().and_then(Interrupt::asked)
    }

    /// `error`, or the signal that was the reason for it.
    pub(crate) fn failure(&self, error: impl Into<Failure>) -> Failure {
        let failure = error.into();
        match self.asked() {
            Some(signal) => failure.by_signal(signal),
            None => failure,
        }
    }
}

impl xip_image::Progress for Progress {
    fn phase(&self, phase: Phase, total: u64) {
        self.next_phase(Some(phase));
        match phase {
            Phase::Scan => self.begin("looking", total, false),
            Phase::Names => self.begin("naming ", total, false),
            Phase::Data => self.begin("copying", total, true),
            Phase::Sync => self.begin("syncing", total, true),
        }
    }

    fn advance(&self, by: u64) {
        self.add(by);
    }

    fn cancelled(&self) -> bool {
        self.asked().is_some()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.next_phase(None);
        self.bar.finish_and_clear();
    }
}
