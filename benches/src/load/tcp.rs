//! A load over TCP or WebSocket: one thread that keeps frames in flight on each connection.
//!
//! The load shares the machine with the server, so it must be cheap. It compares the bytes of a
//! read with the bytes that it sent. One vectored write replaces the returned frames.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event, net::TcpStream};
use socket2::{Domain, SockRef, Socket, Type};

use super::{Echoed, Shape};
use crate::{frames::Frames, measure::Histogram, server::Protocol, websocket};

/// Maximum number of connections from one source address. Each address has about 28,000 ports.
const CONNECTIONS_PER_ADDRESS: usize = 1_000;

/// Size of the read buffer, in bytes. It must be a few times the largest window in the tables,
/// so that one read usually empties the socket.
const READ_BUFFER: usize = 256 * 1024;

/// Time without an answer after which a server is considered stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Open connections to a server and their frames in flight.
#[derive(Debug)]
pub struct TcpLoad {
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    protocol: Protocol,
    stream: FramePair,
    buffer: Box<[u8]>,
    latency: Histogram,
    messages: u64,
    /// `true` while each returned frame is replaced with another.
    repeat: bool,
}

/// The same frames in the form of the client and in the form of the server.
#[derive(Debug)]
struct FramePair {
    out: Frames,
    back: Frames,
}

impl FramePair {
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
    /// Position in the stream of frames up to which bytes were received. It is in the form of the
    /// server.
    received: u64,
    /// Position up to which bytes were sent. It is in the form of the client.
    sent: u64,
    /// Number of the first frame that must not be sent yet.
    allowed: u64,
    /// Batches in flight: the number of the frame after each batch and the time when it was sent.
    batches: VecDeque<(u64, Instant)>,
}

impl TcpLoad {
    /// Opens the connections. Nothing is sent yet.
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
            stream: FramePair::new(protocol, shape.payload),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            latency: Histogram::default(),
            messages: 0,
            repeat: false,
        };
        load.extend(address, shape.connections)?;
        Ok(load)
    }

    /// Opens `more` connections in addition to the open ones.
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
            // Each connection starts at another position of the stream. An answer to another
            // connection will not match.
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

    /// Sends one frame on each connection from number `first` on and waits for all answers.
    ///
    /// # Errors
    ///
    /// If a connection fails, an answer differs from the sent frame, or no answer arrives for ten
    /// seconds.
    pub fn echo_once(&mut self, first: usize) -> io::Result<()> {
        let awaited = self.messages + (self.clients.len() - first) as u64;
        self.repeat = false;
        self.allow(first, 1)?;
        while self.messages < awaited {
            self.poll_once()?;
        }
        Ok(())
    }

    /// Sends the first `in_flight` frames on each connection. [`run`](Self::run) will keep this
    /// number in flight.
    ///
    /// # Errors
    ///
    /// If a connection fails.
    pub fn start(&mut self, in_flight: u64) -> io::Result<()> {
        self.start_from(0, in_flight)
    }

    /// Sends the first `in_flight` frames on each connection from number `first` on. The others
    /// stay idle.
    ///
    /// # Errors
    ///
    /// If a connection fails.
    pub fn start_from(&mut self, first: usize, in_flight: u64) -> io::Result<()> {
        self.allow(first, in_flight)
    }

    /// Replaces each returned frame with another for this duration.
    ///
    /// # Errors
    ///
    /// If a connection fails, an answer differs from the sent frame, or no answer arrives for ten
    /// seconds.
    pub fn run(&mut self, duration: Duration) -> io::Result<Echoed> {
        self.latency = Histogram::default();
        self.repeat = true;
        let (start, messages) = (Instant::now(), self.messages);
        loop {
            self.poll_once()?;
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

    fn allow(&mut self, first: usize, frames: u64) -> io::Result<()> {
        for client in &mut self.clients[first..] {
            client.allow(frames, Instant::now());
            client.write(&self.stream.out)?;
        }
        Ok(())
    }

    /// Waits for the first event and handles all events that are ready.
    fn poll_once(&mut self) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(STUCK)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        if self.events.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the server does not answer any more",
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
    fn allow(&mut self, frames: u64, now: Instant) {
        self.allowed += frames;
        self.batches.push_back((self.allowed, now));
    }

    /// Writes the frames that may be sent as far as the socket accepts them.
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

    /// Reads and checks answers and sends further frames if `repeat` is set. Returns the number of
    /// complete answers.
    fn handle(
        &mut self,
        event: &Event,
        stream: &FramePair,
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
                    "the answer differs from the sent frame",
                ));
            }
            messages += self.record_received(length as u64, &stream.back, latency, repeat);
            // A short read has emptied the socket. Its readiness will be reported again when more
            // arrives.
            if length < buffer.len() {
                break;
            }
        }
        self.write(&stream.out)?;
        Ok(messages)
    }

    fn record_received(
        &mut self,
        bytes: u64,
        frames: &Frames,
        latency: &mut Histogram,
        repeat: bool,
    ) -> u64 {
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
            self.allow(messages, now);
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

impl Drop for TcpLoad {
    fn drop(&mut self) {
        for client in &self.clients {
            // A reset leaves no port in `TIME_WAIT`. After a close, thousands of ports would
            // accumulate.
            _ = SockRef::from(&client.stream).set_linger(Some(Duration::ZERO));
        }
    }
}
