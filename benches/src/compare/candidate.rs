//! The servers that can be compared: this program's own, and those of the peers.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::peers::Peer;
use crate::{
    child::{Place, Server},
    server::{Kind, Protocol},
};

/// A server, and the program that it is in.
#[derive(Clone, Debug)]
pub struct Candidate {
    name: &'static str,
    protocol: Protocol,
    program: PathBuf,
}

impl Candidate {
    /// One of this crate's own; `program` is the one that runs.
    #[must_use]
    pub fn own(kind: Kind, program: &Path) -> Self {
        Self {
            name: kind.name(),
            protocol: kind.protocol(),
            program: program.to_owned(),
        }
    }

    /// A peer, which was built as `program`.
    #[must_use]
    pub fn peer(peer: Peer, program: PathBuf) -> Self {
        Self {
            name: peer.name(),
            protocol: peer.protocol(),
            program,
        }
    }

    /// Its name in tables and on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Starts it in a process of its own.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it listens.
    pub fn start(&self, place: Place) -> io::Result<Server> {
        Server::start(&self.program, self.name, place)
    }
}
