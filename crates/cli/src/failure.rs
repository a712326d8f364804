//! What goes wrong, as a person sees it: `error: what`, what caused it, and a line with the remedy.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::output::Paint;
use crate::signals::die_by;

/// Exit code of a command that did not do its work.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Exit code of a command that looked, and found something that is not as it should be: what `e2fsck` ends with then.
pub(crate) const NOT_AS_IT_SHOULD_BE: u8 = 4;

/// Why a command stopped. Not an [`std::error::Error`] itself, so that `?` turns any error into one.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The error and its causes, outermost first. Empty: say nothing (whoever read our output went away).
    messages: Vec<String>,
    remedy: Option<String>,
    code: u8,
    signal: Option<i32>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure { messages: vec![message.into()], remedy: None, code: FAILED, signal: None }
    }

    /// The reader of our output is gone (`xip ls | head`): stop without a word.
    pub(crate) fn reader_gone() -> Self {
        Failure::silent()
    }

    /// There is nothing to say.
    pub(crate) fn silent() -> Self {
        Failure { messages: Vec::new(), remedy: None, code: FAILED, signal: None }
    }

    /// What the person can do about it.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// `code`, where nothing more exact was said.
    pub(crate) fn or_code(mut self, code: u8) -> Self {
        if self.code == FAILED {
            self.code = code;
        }
        self
    }

    /// A signal asked us to stop: that is how we end, after cleaning up.
    pub(crate) fn by_signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self
    }

    /// How this process ends.
    pub(crate) fn end(&self) -> ExitCode {
        ExitCode::from(self.signal.map_or(self.code, die_by))
    }

    /// What was being tried when the error came.
    pub(crate) fn while_doing(mut self, what: impl Into<String>) -> Self {
        self.messages.insert(0, what.into());
        self
    }

    /// One more cause.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.messages.push(cause.into());
        self
    }

    /// The lines for standard error.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let Some((first, causes)) = self.messages.split_first() else {
            return text;
        };
        let _ = writeln!(text, "{} {first}", paint.red("error:"));
        for cause in causes {
            let _ = writeln!(text, "  because: {cause}");
        }
        if let Some(remedy) = &self.remedy {
            let _ = writeln!(text, "  {} {remedy}", paint.green("try:"));
        }
        text
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut messages = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors already quote their cause: once is enough.
            if !messages.iter().any(|said| said.contains(&cause_text)) {
                messages.push(cause_text);
            }
            source = cause.source();
        }
        Failure { messages, remedy: None, code: FAILED, signal: None }
    }
}

/// `?` with a word about what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| error.into().while_doing(what()))
    }
}
