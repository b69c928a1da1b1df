//! A server with minimal work between the kernel and the echo: threads, readiness events, and
//! one buffer for each thread.
//!
//! It shows the lower bound of the cost. A real server should not be written like this.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};

use crate::frames::{HEADER, MAX_PAYLOAD};

const READ: usize = 64 * 1024;
const WAKE: Token = Token(usize::MAX);

/// Accepts on the calling thread and serves on `workers` other threads.
///
/// # Errors
///
/// If accepting fails or a thread cannot be started.
pub fn run(listener: &TcpListener, workers: usize) -> io::Result<()> {
    let mut inboxes = Vec::new();
    for _ in 0..workers {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox {
            streams: Mutex::default(),
            waker: Waker::new(poll.registry(), WAKE)?,
        });
        inboxes.push(Arc::clone(&inbox));
        thread::spawn(move || {
            // Without this thread its connections would never be served. So the process must end.
            let outcome = Worker::new(poll).run(&inbox);
            eprintln!("a worker ended: {outcome:?}");
            std::process::exit(1);
        });
    }
    for inbox in inboxes.iter().cycle() {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        inbox.put(TcpStream::from_std(stream))?;
    }
    Ok(())
}

struct Inbox {
    streams: Mutex<VecDeque<TcpStream>>,
    waker: Waker,
}

impl Inbox {
    fn put(&self, stream: TcpStream) -> io::Result<()> {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(stream);
        self.waker.wake()
    }

    fn take(&self) -> VecDeque<TcpStream> {
        std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Worker {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffers: Buffers,
}

/// Buffers that a connection needs only while it is served. Each thread has one set.
struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The start of an incomplete frame.
    partial: Vec<u8>,
    /// Bytes that the socket has not accepted. While there are any, nothing may be read.
    unsent: Vec<u8>,
}

impl Worker {
    fn new(poll: Poll) -> Self {
        Self {
            poll,
            connections: Vec::new(),
            free: Vec::new(),
            buffers: Buffers {
                input: vec![0; READ].into_boxed_slice(),
                output: Vec::with_capacity(READ),
            },
        }
    }

    fn run(mut self, inbox: &Inbox) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                if event.token() == WAKE {
                    for stream in inbox.take() {
                        self.open(stream)?;
                    }
                } else {
                    self.serve(event.token().0, event.is_read_closed());
                }
            }
        }
    }

    fn open(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.poll.registry().register(
            &mut stream,
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.connections[index] = Some(Connection {
            stream,
            partial: Vec::new(),
            unsent: Vec::new(),
        });
        Ok(())
    }

    fn serve(&mut self, index: usize, read_closed: bool) {
        let slot = &mut self.connections[index];
        let Some(connection) = slot else { return };
        if let Ok(true) = connection.serve(&mut self.buffers, read_closed) {
            return;
        }
        // Closing the socket will also remove it from the poll.
        *slot = None;
        self.free.push(index);
    }
}

impl Connection {
    /// Echoes until the socket has no more input or accepts no more output. Returns `true` if the
    /// connection is still open.
    fn serve(&mut self, buffers: &mut Buffers, read_closed: bool) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            if !self.write(&unsent)? {
                return Ok(true);
            }
        }
        loop {
            let length = match self.stream.read(&mut buffers.input) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let input = &buffers.input[..length];
            buffers.output.clear();
            if self.partial.is_empty() {
                let parsed = answer(input, &mut buffers.output)?;
                self.partial.extend_from_slice(&input[parsed..]);
            } else {
                self.partial.extend_from_slice(input);
                let parsed = answer(&self.partial, &mut buffers.output)?;
                if parsed == self.partial.len() {
                    // Frees the memory. An idle connection must hold none.
                    self.partial = Vec::new();
                } else {
                    self.partial.drain(..parsed);
                }
            }
            if !buffers.output.is_empty() && !self.write(&buffers.output)? {
                return Ok(true);
            }
            // A short read has emptied the socket and its readiness will be reported again when
            // more arrives. A close that was reported with the bytes will not be reported again.
            if length < buffers.input.len() && !read_closed {
                return Ok(true);
            }
        }
    }

    /// Writes and keeps the bytes that the socket does not accept. Returns `true` if all were
    /// written.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(bytes);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Copies the complete frames of `input` and returns their length in bytes.
fn answer(input: &[u8], output: &mut Vec<u8>) -> io::Result<usize> {
    let mut parsed = 0;
    while let Some((header, rest)) = input[parsed..].split_first_chunk::<HEADER>() {
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(payload) = rest.get(..length) else {
            break;
        };
        output.extend_from_slice(header);
        output.extend_from_slice(payload);
        parsed += HEADER + length;
    }
    Ok(parsed)
}
