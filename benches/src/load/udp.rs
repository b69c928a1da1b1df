//! A load over UDP: one thread that keeps datagrams in flight for each of its sockets and
//! checks the answers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::UdpSocket};

use super::{Echoed, Shape};
use crate::measure::Histogram;

/// Time without an answer after which missing datagrams are considered lost and sent again.
/// Datagrams can be lost when a socket buffer is full.
const LOSS_TIMEOUT: Duration = Duration::from_millis(100);
/// Maximum number of sockets from one source address.
const PEERS_PER_ADDRESS: usize = 1_000;
/// Minimum payload, in bytes: the peer, the number of the datagram, and the time of sending.
const MIN_PAYLOAD: usize = 24;

/// Peers of a server and their datagrams in flight.
#[derive(Debug)]
pub struct UdpLoad {
    poll: Poll,
    events: Events,
    peers: Vec<Peer>,
    payload: usize,
    buffer: Vec<u8>,
    start: Instant,
    echoed: u64,
    lost: u64,
    latency: Histogram,
}

#[derive(Debug)]
struct Peer {
    socket: UdpSocket,
    next: u64,
    expected: u64,
    in_flight: u64,
}

impl UdpLoad {
    /// Opens a socket for each connection of the shape. Nothing is sent yet. A payload has at least
    /// 24 bytes.
    ///
    /// # Errors
    ///
    /// If a socket cannot be opened.
    pub fn open(address: SocketAddr, shape: Shape) -> io::Result<Self> {
        let poll = Poll::new()?;
        let open = |index: usize| {
            let host = u8::try_from(1 + index / PEERS_PER_ADDRESS).map_err(io::Error::other)?;
            let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0));
            let mut socket = UdpSocket::bind(from)?;
            socket.connect(address)?;
            poll.registry()
                .register(&mut socket, Token(index), Interest::READABLE)?;
            Ok(Peer {
                socket,
                next: 0,
                expected: 0,
                in_flight: 0,
            })
        };
        Ok(Self {
            peers: (0..shape.connections)
                .map(open)
                .collect::<io::Result<_>>()?,
            poll,
            events: Events::with_capacity(1024),
            payload: shape.payload.max(MIN_PAYLOAD),
            buffer: vec![0; 65_536],
            start: Instant::now(),
            echoed: 0,
            lost: 0,
            latency: Histogram::default(),
        })
    }

    /// Returns the number of lost datagrams since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Sends one datagram for each peer and waits for all answers. Lost datagrams will be sent
    /// again.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn echo_once(&mut self) -> io::Result<()> {
        let awaited = self.echoed + self.peers.len() as u64;
        for index in 0..self.peers.len() {
            self.send(index)?;
            // The server's socket buffer cannot hold a datagram of each peer.
            if index % 64 == 63 {
                self.poll_once(false, Duration::ZERO)?;
            }
        }
        while self.echoed < awaited {
            self.poll_once(false, LOSS_TIMEOUT)?;
        }
        Ok(())
    }

    /// Sends `in_flight` datagrams for each peer.
    ///
    /// # Errors
    ///
    /// If a datagram cannot be sent.
    pub fn start(&mut self, in_flight: u64) -> io::Result<()> {
        for index in 0..self.peers.len() {
            for _ in 0..in_flight {
                self.send(index)?;
            }
        }
        Ok(())
    }

    /// Replaces each returned datagram with another for this duration.
    ///
    /// # Errors
    ///
    /// If an answer arrives at the wrong peer or out of order.
    pub fn run(&mut self, duration: Duration) -> io::Result<Echoed> {
        let (start, before) = (Instant::now(), self.echoed);
        self.latency = Histogram::default();
        while start.elapsed() < duration {
            self.poll_once(true, LOSS_TIMEOUT)?;
        }
        Ok(Echoed {
            messages: self.echoed - before,
            elapsed: start.elapsed(),
            latency: std::mem::take(&mut self.latency),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let now = self.now();
        let peer = &mut self.peers[index];
        let message = &mut self.buffer[..self.payload];
        for (field, number) in message
            .chunks_exact_mut(8)
            .zip([index as u64, peer.next, now])
        {
            field.copy_from_slice(&number.to_be_bytes());
        }
        peer.next += 1;
        peer.in_flight += 1;
        peer.socket.send(message)?;
        Ok(())
    }

    fn poll_once(&mut self, repeat: bool, wait: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        if self.events.is_empty() && !wait.is_zero() {
            return self.resend_lost();
        }
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for index in ready {
            let mut came = 0;
            while self.receive(index)? {
                came += 1;
            }
            self.echoed += came;
            if repeat {
                for _ in 0..came {
                    self.send(index)?;
                }
            }
        }
        Ok(())
    }

    /// Receives one answer. Returns `false` if there is none.
    fn receive(&mut self, index: usize) -> io::Result<bool> {
        let len = match self.peers[index].socket.recv(&mut self.buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let wrong = |what: &'static str| Err(io::Error::other(what));
        if len != self.payload {
            return wrong("an answer has the wrong length");
        }
        let mut fields = self.buffer.chunks_exact(8).map(|field| {
            let bytes = field.try_into().expect("chunks of eight bytes");
            u64::from_be_bytes(bytes)
        });
        let mut field = || fields.next().unwrap_or_default();
        let (from, number, left) = (field(), field(), field());
        if from != index as u64 {
            return wrong("an answer arrived at the wrong peer");
        }
        let peer = &mut self.peers[index];
        if number < peer.expected {
            return wrong("an answer is out of order");
        }
        peer.expected = number + 1;
        peer.in_flight = peer.in_flight.saturating_sub(1);
        let took = Duration::from_nanos(self.now().saturating_sub(left));
        self.latency.record(took, 1);
        Ok(true)
    }

    /// Sends the missing datagrams again after a time without answers.
    fn resend_lost(&mut self) -> io::Result<()> {
        for index in 0..self.peers.len() {
            let missing = std::mem::take(&mut self.peers[index].in_flight);
            self.lost += missing;
            for _ in 0..missing {
                self.send(index)?;
            }
        }
        Ok(())
    }
}
