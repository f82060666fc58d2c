//! Exit codes of the command, and failures that carry one.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, nothing wrong found |
//! | 1 | done, and a problem was found; or the daemon refused (no such message, ...); `run`: ended by a second signal |
//! | 2 | wrong usage or configuration, also of the file that the daemon was to `reload` |
//! | 3 | the daemon could not be reached |
//!
//! Scripts rely on these; they do not change.

use std::process::ExitCode;

use super::client::ClientError;

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Nothing wrong.
    Ok,
    /// A problem was found, or an operation failed.
    Problem,
    /// Wrong usage or configuration; clap ends with the same code.
    Usage,
    /// The daemon could not be reached.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Problem => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// An error with the exit code it leads to.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What is told to the operator, causes included.
    pub error: anyhow::Error,
}

impl Failure {
    /// Wrong usage or configuration.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { exit: Exit::Usage, error: error.into() }
    }
}

/// A daemon that cannot be reached has its own code; whatever else is not classified is a problem.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let exit = match error.downcast_ref::<ClientError>() {
            Some(ClientError::Unreachable { .. } | ClientError::Protocol { .. }) => Exit::Unreachable,
            Some(ClientError::Usage(_)) => Exit::Usage,
            _ => Exit::Problem,
        };
        Self { exit, error }
    }
}

/// What a sub-command gives.
pub type Result = std::result::Result<Exit, Failure>;
