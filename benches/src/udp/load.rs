//! One thread that keeps so many datagrams in flight for each of its sockets, and looks at what comes back.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::UdpSocket};

use crate::{
    histogram::Histogram,
    load::{Echoed, Shape},
};

/// Datagrams get lost where a buffer is full; after so long without any, what is missing is sent again.
const LOST: Duration = Duration::from_millis(100);
/// Sockets from one source address.
const PEERS_PER_ADDRESS: usize = 1_000;
/// Whom a datagram is from, which of this peer's it is, and when it left.
const LEAST: usize = 24;

/// Peers of a server, with their datagrams in flight.
#[derive(Debug)]
pub struct Load {
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

impl Load {
    /// Opens a socket for each connection of the shape; nothing is sent yet. A payload is 24 bytes at least.
    ///
    /// # Errors
    ///
    /// If there are not as many sockets to be had.
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
            payload: shape.payload.max(LEAST),
            buffer: vec![0; 65_536],
            start: Instant::now(),
            echoed: 0,
            lost: 0,
            latency: Histogram::default(),
        })
    }

    /// How many datagrams have not come back since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// One datagram for each peer and its answer, however often it takes.
    ///
    /// # Errors
    ///
    /// As of [`run`](Self::run).
    pub fn echo_once(&mut self) -> io::Result<()> {
        let awaited = self.echoed + self.peers.len() as u64;
        for index in 0..self.peers.len() {
            self.send(index)?;
            // the server's buffer does not hold as many as there may be peers
            if index % 64 == 63 {
                self.turn(false, Duration::ZERO)?;
            }
        }
        while self.echoed < awaited {
            self.turn(false, LOST)?;
        }
        Ok(())
    }

    /// Puts so many datagrams more in flight for each peer.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(&mut self, in_flight: u64) -> io::Result<()> {
        for index in 0..self.peers.len() {
            for _ in 0..in_flight {
                self.send(index)?;
            }
        }
        Ok(())
    }

    /// Sends a datagram for each that comes back, for so long.
    ///
    /// # Errors
    ///
    /// If an answer is not to what its peer has sent, or out of order.
    pub fn run(&mut self, duration: Duration) -> io::Result<Echoed> {
        let (start, before) = (Instant::now(), self.echoed);
        self.latency = Histogram::default();
        while start.elapsed() < duration {
            self.turn(true, LOST)?;
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

    fn turn(&mut self, repeat: bool, wait: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        if self.events.is_empty() && !wait.is_zero() {
            return self.send_lost();
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

    /// Takes one answer, if there is one.
    fn receive(&mut self, index: usize) -> io::Result<bool> {
        let len = match self.peers[index].socket.recv(&mut self.buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let wrong = |what: &str| Err(io::Error::other(format!("an answer {what}")));
        if len != self.payload {
            return wrong("of another length");
        }
        let mut fields = self.buffer.chunks_exact(8).map(|field| {
            let bytes = field.try_into().expect("chunks of eight bytes");
            u64::from_be_bytes(bytes)
        });
        let mut field = || fields.next().unwrap_or_default();
        let (from, number, left) = (field(), field(), field());
        if from != index as u64 {
            return wrong("to another peer");
        }
        let peer = &mut self.peers[index];
        if number < peer.expected {
            return wrong("out of order");
        }
        peer.expected = number + 1;
        peer.in_flight = peer.in_flight.saturating_sub(1);
        let took = Duration::from_nanos(self.now().saturating_sub(left));
        self.latency.record(took, 1);
        Ok(true)
    }

    /// Nothing has come for a while: what is missing is lost.
    fn send_lost(&mut self) -> io::Result<()> {
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
