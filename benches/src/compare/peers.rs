//! Servers built with other libraries. They have a separate workspace that is built when
//! needed.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::server::Protocol;

/// The package that must be built alone. Together with others it would get features that it
/// must not have.
const ALONE: &str = "peer-ntex-neon";

/// A server of the workspace `benches/peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// ntex over tokio.
    Ntex,
    /// ntex on its own runtime over `epoll`.
    NtexEpoll,
    /// The TCP server of rama.
    Rama,
    /// The pipelining server of tokio-tower.
    TokioTower,
    /// fastwebsockets.
    Fastwebsockets,
    /// tokio-websockets. It answers all messages of a read at once.
    TokioWebsocketsBatch,
    /// tokio-websockets with one `send` for each message.
    TokioWebsocketsSend,
}

impl Peer {
    /// All peers.
    pub const ALL: [Self; 7] = [
        Self::Ntex,
        Self::NtexEpoll,
        Self::Rama,
        Self::TokioTower,
        Self::Fastwebsockets,
        Self::TokioWebsocketsBatch,
        Self::TokioWebsocketsSend,
    ];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ntex => "ntex",
            Self::NtexEpoll => "ntex-epoll",
            Self::Rama => "rama",
            Self::TokioTower => "tokio-tower",
            Self::Fastwebsockets => "fastwebsockets",
            Self::TokioWebsocketsBatch => "tokio-websockets-batch",
            Self::TokioWebsocketsSend => "tokio-websockets-send",
        }
    }

    /// Returns the peer with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name() == name)
    }

    /// Returns the protocol of the peer.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Ntex | Self::NtexEpoll | Self::Rama | Self::TokioTower => Protocol::Length,
            Self::Fastwebsockets | Self::TokioWebsocketsBatch | Self::TokioWebsocketsSend => {
                Protocol::WebSocket
            }
        }
    }

    /// Returns the package of the peer. Its program has the same name.
    fn package(self) -> &'static str {
        match self {
            Self::Ntex => "peer-ntex",
            Self::NtexEpoll => ALONE,
            Self::Rama => "peer-rama",
            Self::TokioTower => "peer-tokio-tower",
            Self::Fastwebsockets => "peer-fastwebsockets",
            Self::TokioWebsocketsBatch | Self::TokioWebsocketsSend => "peer-tokio-websockets",
        }
    }
}

/// Builds the peers and returns the program of each. A peer that cannot be built is missing,
/// and the reason is printed to standard error.
#[must_use]
pub(super) fn build(wanted: &[Peer]) -> Vec<(Peer, PathBuf)> {
    let mut packages: Vec<&str> = wanted.iter().map(|peer| peer.package()).collect();
    packages.dedup();
    if packages.is_empty() {
        return Vec::new();
    }
    let target = target();
    eprintln!("building {}", packages.join(", "));
    let together: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| *name != ALONE)
        .collect();
    // One build for all packages compiles shared dependencies once. If it fails, each package must
    // be built by itself.
    let built = together.is_empty() || cargo_build(&together, &target).is_ok();
    packages.retain(|package| {
        if built && *package != ALONE {
            return true;
        }
        let outcome = cargo_build(&[package], &target);
        if let Err(error) = &outcome {
            eprintln!(
                "compare: {package} cannot be built and is left out: {error}\n\
                 (the first build takes its dependencies from the network)"
            );
        }
        outcome.is_ok()
    });
    wanted
        .iter()
        .filter(|peer| packages.contains(&peer.package()))
        .map(|&peer| (peer, target.join("release").join(peer.package())))
        .collect()
}

fn cargo_build(packages: &[&str], target: &Path) -> io::Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(target)
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .stdin(Stdio::null())
        // Standard output contains only tables.
        .stdout(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cargo build: {status}")))
    }
}

fn workspace() -> PathBuf {
    crate::sources().join("peers")
}

/// Returns the target directory of this program or that of the peers if it is unknown.
fn target() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    program
        .parent()
        .filter(|profile| profile.ends_with("release") || profile.ends_with("debug"))
        .and_then(Path::parent)
        .map_or_else(|| workspace().join("target"), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Kind;

    #[test]
    fn no_peer_has_the_name_of_another_server() {
        for peer in Peer::ALL {
            assert_eq!(Peer::from_name(peer.name()), Some(peer));
            assert_eq!(Kind::from_name(peer.name()), None);
        }
    }

    #[test]
    fn every_package_exists() {
        for peer in Peer::ALL {
            let folder = peer.package().trim_start_matches("peer-");
            let manifest = workspace().join(folder).join("Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).unwrap();
            assert!(manifest.contains(&format!("name = \"{}\"", peer.package())));
        }
    }
}
