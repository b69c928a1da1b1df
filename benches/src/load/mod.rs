//! Loads: clients that keep a server busy and check each answer.

mod tcp;
mod udp;

use std::{fmt, io, str::FromStr, time::Duration};

use getty::BoxError;

pub use self::{tcp::TcpLoad, udp::UdpLoad};
use crate::{
    child::Server,
    cli::at_least_one,
    frames::MAX_PAYLOAD,
    measure::{Histogram, Sample, memory},
};

/// Time before a measurement. A server must reach its steady state in this time.
pub const WARM_UP: Duration = Duration::from_millis(250);

/// Maximum payload of a datagram over IPv4, in bytes.
const MAX_DATAGRAM: usize = 65_507;

/// The size of a load, written as `50x64x1024`: connections, frames in flight, payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of connections or of UDP peers.
    pub connections: usize,
    /// Number of frames in flight on each connection.
    pub in_flight: u64,
    /// Payload of each frame, in bytes. Must not exceed [`MAX_PAYLOAD`].
    pub payload: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            in_flight,
            payload,
        } = self;
        write!(f, "{connections}x{in_flight}x{payload}")
    }
}

impl Shape {
    /// Parses the shape of a UDP load.
    ///
    /// # Errors
    ///
    /// If the text is not a shape or the payload does not fit a datagram.
    pub fn of_datagrams(name: &str) -> Result<Self, BoxError> {
        name.parse::<Self>()?.with_payload_within(MAX_DATAGRAM)
    }

    fn with_payload_within(self, max: usize) -> Result<Self, BoxError> {
        if self.payload > max {
            return Err(format!("the payload of {self} must not exceed {max} bytes").into());
        }
        Ok(self)
    }
}

impl FromStr for Shape {
    type Err = BoxError;

    fn from_str(shape: &str) -> Result<Self, Self::Err> {
        match shape.split('x').collect::<Vec<_>>()[..] {
            [connections, in_flight, payload] => Ok(Self {
                connections: at_least_one("connections", connections)?,
                in_flight: at_least_one("frames in flight", in_flight)? as u64,
                payload: payload.parse()?,
            })
            .and_then(|shape| shape.with_payload_within(MAX_PAYLOAD)),
            _ => Err(format!("{shape:?} does not have the form 50x64x1024").into()),
        }
    }
}

/// Messages that came back during one run of a load.
#[derive(Clone, Debug)]
pub struct Echoed {
    /// Number of frames that came back complete and unchanged.
    pub messages: u64,
    /// Duration of the run.
    pub elapsed: Duration,
    /// Time from sending a frame to receiving it back.
    pub latency: Histogram,
}

/// Measures a server under a load after the warm-up.
///
/// `run` runs the load for a duration.
///
/// # Errors
///
/// If the load fails or the server process ends.
#[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
pub fn sample(
    server: &mut Server,
    duration: Duration,
    mut run: impl FnMut(Duration) -> io::Result<Echoed>,
) -> io::Result<Sample> {
    run(WARM_UP)?;
    let before = server.cpu()?;
    let echoed = run(duration)?;
    let used = server.cpu()? - before;
    Ok(Sample {
        cpu: used as f64 / echoed.messages as f64,
        rate: echoed.messages as f64 / echoed.elapsed.as_secs_f64(),
        latency: echoed.latency,
        peak: Some(memory::peak(server.pid())?),
    })
}
