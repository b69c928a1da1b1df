//! Cases of the comparison and their names on the command line.

use std::{fmt, num::NonZero, str::FromStr};

use getty::BoxError;

use super::Group;
use crate::{load::Shape, server::Protocol};

/// Number of connections in an idle case.
pub(super) const IDLE: usize = 10_000;

/// A load under which all suitable servers are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Frames that are echoed.
    Echo(Protocol, Shape),
    /// Idle connections.
    Idle(Protocol),
    /// Datagrams that are echoed. The connections of the shape are peers.
    Datagrams(Shape),
    /// One message to this number of members.
    Broadcast(usize),
    /// Calls from several tasks that share a connection.
    Calls {
        /// `true` if responses carry the id of their request. Otherwise they arrive in order.
        by_id: bool,
        /// Number of tasks that make calls.
        tasks: usize,
    },
}

impl Case {
    /// Creates a case over TCP.
    #[must_use]
    pub const fn echo(connections: usize, in_flight: u64, payload: usize) -> Self {
        let shape = Shape {
            connections,
            in_flight,
            payload,
        };
        Self::Echo(Protocol::Length, shape)
    }

    /// Returns the same load over WebSocket.
    #[must_use]
    pub const fn over_websocket(self) -> Self {
        match self {
            Self::Echo(_, shape) => Self::Echo(Protocol::WebSocket, shape),
            Self::Idle(_) => Self::Idle(Protocol::WebSocket),
            other => other,
        }
    }

    /// Returns the same load over UDP.
    #[must_use]
    pub const fn over_udp(self) -> Self {
        match self {
            Self::Echo(_, shape) => Self::Datagrams(shape),
            other => other,
        }
    }

    /// Returns the group of the case.
    #[must_use]
    pub const fn group(self) -> Group {
        match self {
            Self::Echo(protocol, _) | Self::Idle(protocol) => Group::Echo(protocol),
            Self::Datagrams(_) => Group::Udp,
            Self::Broadcast(_) => Group::Broadcast,
            Self::Calls { .. } => Group::Calls,
        }
    }

    /// Returns `true` if several frames are in flight on each connection. `None` if the case is not
    /// an echo.
    #[must_use]
    pub const fn is_pipelined(self) -> Option<bool> {
        match self {
            Self::Echo(_, shape) | Self::Datagrams(shape) => Some(shape.in_flight > 1),
            Self::Idle(_) | Self::Broadcast(_) | Self::Calls { .. } => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = |protocol: &Protocol| match protocol {
            Protocol::Length => "",
            Protocol::WebSocket => "ws-",
        };
        match self {
            Self::Echo(protocol, shape) => write!(f, "{}{shape}", prefix(protocol)),
            Self::Idle(protocol) => write!(f, "{}idle", prefix(protocol)),
            Self::Datagrams(shape) => write!(f, "udp-{shape}"),
            Self::Broadcast(members) => write!(f, "broadcast-{members}"),
            Self::Calls { by_id, tasks } => {
                let by_id = if *by_id { "by-id-" } else { "" };
                write!(f, "calls-{by_id}{tasks}")
            }
        }
    }
}

impl FromStr for Case {
    type Err = BoxError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let calls = |by_id, tasks: &str| {
            let tasks = tasks.parse::<NonZero<usize>>()?.get();
            Ok(Self::Calls { by_id, tasks })
        };
        if let Some(name) = name.strip_prefix("ws-") {
            return match name.parse()? {
                case @ (Self::Echo(Protocol::Length, _) | Self::Idle(Protocol::Length)) => {
                    Ok(case.over_websocket())
                }
                case => Err(format!("{case} does not exist over WebSocket").into()),
            };
        }
        if let Some(shape) = name.strip_prefix("udp-") {
            return Ok(Self::Datagrams(Shape::of_datagrams(shape)?));
        }
        if let Some(members) = name.strip_prefix("broadcast-") {
            return Ok(Self::Broadcast(members.parse::<NonZero<usize>>()?.get()));
        }
        if let Some(tasks) = name.strip_prefix("calls-by-id-") {
            return calls(true, tasks);
        }
        if let Some(tasks) = name.strip_prefix("calls-") {
            return calls(false, tasks);
        }
        if name == "idle" {
            return Ok(Self::Idle(Protocol::Length));
        }
        Ok(Self::Echo(Protocol::Length, name.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_case() {
        for name in [
            "50x64x1024",
            "idle",
            "ws-50x1x64",
            "ws-idle",
            "udp-8x16x64",
            "broadcast-10000",
            "calls-50",
            "calls-by-id-1",
        ] {
            assert_eq!(name.parse::<Case>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn invalid_names_are_refused() {
        for name in [
            "",
            "50x64",
            "ws-",
            "ws-broadcast-10",
            "broadcast-all",
            "calls-by-id-",
        ] {
            assert!(name.parse::<Case>().is_err(), "{name}");
        }
    }
}
