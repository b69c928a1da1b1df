//! Servers to compare: those of this crate and peers.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::peers::Peer;
use crate::{
    child::{Placement, Server},
    server::{Kind, Protocol},
};

/// A server and the program that contains it.
#[derive(Clone, Debug)]
pub struct Candidate {
    name: &'static str,
    protocol: Protocol,
    program: PathBuf,
}

impl Candidate {
    /// Creates a candidate for a server of this crate. `program` is the running executable.
    #[must_use]
    pub fn own(kind: Kind, program: &Path) -> Self {
        Self {
            name: kind.name(),
            protocol: kind.protocol(),
            program: program.to_owned(),
        }
    }

    /// Creates a candidate for a peer. `program` is its executable.
    #[must_use]
    pub fn peer(peer: Peer, program: PathBuf) -> Self {
        Self {
            name: peer.name(),
            protocol: peer.protocol(),
            program,
        }
    }

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the protocol of the server.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Starts the server in a child process.
    ///
    /// # Errors
    ///
    /// If the process cannot be started or ends before it listens.
    pub fn start(&self, placement: Placement) -> io::Result<Server> {
        Server::start(&self.program, self.name, placement)
    }
}
