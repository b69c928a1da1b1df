//! The load: one thread that keeps a number of frames in flight on each of its connections.
//!
//! It shares the machine with the server, so it is cheap rather than clever: what a read brings is compared with what
//! was sent, and as many frames as it completed leave in one vectored write.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event, net::TcpStream};
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    frames::{Frames, MAX_PAYLOAD},
    histogram::Histogram,
    options::at_least_one,
    server::Protocol,
    websocket,
};

/// Connections from one source address; each address has some 28,000 ports of its own.
const CONNECTIONS_PER_ADDRESS: usize = 1_000;

/// Room for the largest window in the tables a few times over, so that a read seldom leaves something behind.
const READ_BUFFER: usize = 256 * 1024;

/// The longest payload of a datagram over IPv4.
const LONGEST_DATAGRAM: usize = 65_507;

/// How long a server may stay silent before it is taken to be stuck.
const STUCK: Duration = Duration::from_secs(10);

/// How many connections, how many frames in flight on each, how many payload bytes in each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Connections.
    pub connections: usize,
    /// Frames in flight on each connection.
    pub in_flight: u64,
    /// Payload bytes of a frame.
    pub payload: usize,
}

/// `50x64x1024`: connections, frames in flight on each, payload bytes.
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
    /// One of datagrams, by its name.
    ///
    /// # Errors
    ///
    /// If it is none, or no datagram has so many bytes.
    pub fn of_datagrams(name: &str) -> Result<Self, Box<dyn Error>> {
        name.parse::<Self>()?.with_payload_within(LONGEST_DATAGRAM)
    }

    fn with_payload_within(self, most: usize) -> Result<Self, Box<dyn Error>> {
        if self.payload > most {
            return Err(format!("{self} has payloads of more than {most} bytes").into());
        }
        Ok(self)
    }
}

impl FromStr for Shape {
    type Err = Box<dyn Error>;

    fn from_str(shape: &str) -> Result<Self, Self::Err> {
        match shape.split('x').collect::<Vec<_>>()[..] {
            [connections, in_flight, payload] => Ok(Self {
                connections: at_least_one("connections", connections)?,
                in_flight: at_least_one("frames in flight", in_flight)? as u64,
                payload: payload.parse()?,
            })
            .and_then(|shape| shape.with_payload_within(MAX_PAYLOAD)),
            _ => Err(format!("{shape:?} is not like 50x64x1024").into()),
        }
    }
}

/// What came back during one stretch of time.
#[derive(Clone, Debug)]
pub struct Echoed {
    /// Frames that came back whole and unchanged.
    pub messages: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// From sending a frame to having it back, for each frame.
    pub latency: Histogram,
}

/// Open connections to a server, with their frames in flight.
#[derive(Debug)]
pub struct Load {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    protocol: Protocol,
    stream: Streams,
    buffer: Box<[u8]>,
    latency: Histogram,
    messages: u64,
    /// Whether a frame that comes back is followed by another.
    repeat: bool,
}

/// The same frames as they are sent and as they come back.
#[derive(Debug)]
struct Streams {
    out: Frames,
    back: Frames,
}

impl Streams {
    fn new(protocol: Protocol, payload: usize) -> Self {
        let (out, back) = protocol.forms();
        Self {
            out: Frames::in_form(out, payload),
            back: Frames::in_form(back, payload),
        }
    }
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    /// How far in the stream of frames is what came back, in bytes of that direction.
    received: u64,
    /// The same of what was written.
    sent: u64,
    /// Up to which frame may be written.
    allowed: u64,
    /// The ends of the batches in flight, in frames, and when each was let go.
    batches: VecDeque<(u64, Instant)>,
}

impl Load {
    /// Opens the connections; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// If a connection cannot be opened.
    pub fn open(address: SocketAddr, protocol: Protocol, shape: Shape) -> io::Result<Self> {
        let mut load = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            clients: Vec::new(),
            protocol,
            stream: Streams::new(protocol, shape.payload),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            latency: Histogram::default(),
            messages: 0,
            repeat: false,
        };
        load.extend(address, shape.connections)?;
        Ok(load)
    }

    /// Opens `more` connections beside those that are open.
    ///
    /// # Errors
    ///
    /// If a connection cannot be opened.
    pub fn extend(&mut self, address: SocketAddr, more: usize) -> io::Result<()> {
        for index in self.clients.len()..self.clients.len() + more {
            let mut stream = connect(address, self.protocol, index)?;
            self.poll.registry().register(
                &mut stream,
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            // Each connection starts elsewhere in the stream, so that an answer to another is not taken for its own.
            let first = index as u64;
            self.clients.push(Client {
                stream,
                received: first * self.stream.back.frame_len(),
                sent: first * self.stream.out.frame_len(),
                allowed: first,
                batches: VecDeque::new(),
            });
        }
        Ok(())
    }

    /// Sends one frame on each connection from number `first` on and waits until all are back.
    ///
    /// # Errors
    ///
    /// If a connection fails, an echo differs from what was sent, or nothing comes back for ten seconds.
    pub fn echo_once(&mut self, first: usize) -> io::Result<()> {
        let awaited = self.messages + (self.clients.len() - first) as u64;
        self.repeat = false;
        self.release(first, 1)?;
        while self.messages < awaited {
            self.turn()?;
        }
        Ok(())
    }

    /// Sends the first `in_flight` frames on each connection; [`run`](Self::run) keeps as many in flight.
    ///
    /// # Errors
    ///
    /// If a connection fails.
    pub fn start(&mut self, in_flight: u64) -> io::Result<()> {
        self.start_from(0, in_flight)
    }

    /// Does so on the connections from number `first` on; the others stay idle.
    ///
    /// # Errors
    ///
    /// If a connection fails.
    pub fn start_from(&mut self, first: usize, in_flight: u64) -> io::Result<()> {
        self.release(first, in_flight)
    }

    /// Sends a frame for each that comes back, for this long.
    ///
    /// # Errors
    ///
    /// If a connection fails, an echo differs from what was sent, or nothing comes back for ten seconds.
    pub fn run(&mut self, duration: Duration) -> io::Result<Echoed> {
        self.latency = Histogram::default();
        self.repeat = true;
        let (start, messages) = (Instant::now(), self.messages);
        loop {
            self.turn()?;
            let elapsed = start.elapsed();
            if elapsed >= duration {
                return Ok(Echoed {
                    messages: self.messages - messages,
                    elapsed,
                    latency: std::mem::take(&mut self.latency),
                });
            }
        }
    }

    fn release(&mut self, first: usize, frames: u64) -> io::Result<()> {
        for client in &mut self.clients[first..] {
            client.release(frames, Instant::now());
            client.write(&self.stream.out)?;
        }
        Ok(())
    }

    /// Handles what the connections have at this moment, after waiting for the first.
    fn turn(&mut self) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(STUCK)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        if self.events.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the server has stopped answering",
            ));
        }
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            self.messages += client.handle(
                event,
                &self.stream,
                &mut self.buffer,
                &mut self.latency,
                self.repeat,
            )?;
        }
        Ok(())
    }
}

impl Client {
    fn release(&mut self, frames: u64, now: Instant) {
        self.allowed += frames;
        self.batches.push_back((self.allowed, now));
    }

    /// Writes what may be sent, as far as the socket takes it.
    fn write(&mut self, frames: &Frames) -> io::Result<()> {
        let allowed = self.allowed * frames.frame_len();
        while self.sent < allowed {
            let slices = frames.slices(self.sent, allowed);
            match self.stream.write_vectored(slices.as_slice()) {
                Ok(written) => self.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads, checks, and sends as many frames as came back if it is to `repeat`; returns how many came back.
    fn handle(
        &mut self,
        event: &Event,
        stream: &Streams,
        buffer: &mut [u8],
        latency: &mut Histogram,
        repeat: bool,
    ) -> io::Result<u64> {
        let mut messages = 0;
        while event.is_readable() {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if !stream.back.matches(self.received, &buffer[..length]) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the echo differs from what was sent",
                ));
            }
            messages += self.took(length as u64, &stream.back, latency, repeat);
            // A short read has emptied the socket: on a stream its readiness is reported anew when more comes.
            if length < buffer.len() {
                break;
            }
        }
        self.write(&stream.out)?;
        Ok(messages)
    }

    fn took(&mut self, bytes: u64, frames: &Frames, latency: &mut Histogram, repeat: bool) -> u64 {
        let length = frames.frame_len();
        let now = Instant::now();
        let mut whole = self.received / length;
        self.received += bytes;
        let complete = self.received / length;
        let messages = complete - whole;
        while let Some(&(end, sent)) = self.batches.front() {
            let upto = complete.min(end);
            latency.record(now - sent, upto - whole);
            whole = upto;
            if upto < end {
                break;
            }
            self.batches.pop_front();
        }
        if repeat && messages > 0 {
            self.release(messages, now);
        }
        messages
    }
}

fn connect(address: SocketAddr, protocol: Protocol, index: usize) -> io::Result<TcpStream> {
    let host = u8::try_from(1 + index / CONNECTIONS_PER_ADDRESS).map_err(io::Error::other)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
    socket.connect(&address.into())?;
    socket.set_tcp_nodelay(true)?;
    if protocol == Protocol::WebSocket {
        websocket::open(&socket)?;
    }
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in &self.clients {
            // A reset instead of a close leaves no port waiting behind, of which thousands would pile up.
            _ = SockRef::from(&client.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
