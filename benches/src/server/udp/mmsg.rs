//! A hand-written loop that receives and sends many datagrams with one system call each.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket as StdSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use tokio::{io::Interest, net::UdpSocket};

/// Maximum number of datagrams in a call. getty uses the same number.
const BATCH: usize = 32;
/// Size of the buffer of a datagram, in bytes. It would cut longer datagrams, but the cases
/// have none.
const SLOT: usize = 2048;

/// Serves on the current runtime. Must be called within a runtime.
pub(super) fn listen(socket: StdSocket) -> io::Result<SocketAddr> {
    let socket = UdpSocket::from_std(socket)?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        loop {
            socket.readable().await?;
            let outcome = BUFFERS.with_borrow_mut(|buffers| {
                socket.try_io(Interest::READABLE, || buffers.receive(&socket))?;
                buffers.answer(&socket)
            });
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        #[expect(unreachable_code, reason = "gives the task its error type")]
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

thread_local! {
    // The headers are not `Send`, so they cannot be part of the task.
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers::new());
}

struct Buffers {
    bytes: Vec<u8>,
    /// Sending and receiving have separate headers: sending would overwrite the addresses.
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    lens: Vec<usize>,
    peers: Vec<Option<SockaddrIn>>,
}

impl Buffers {
    fn new() -> Self {
        Self {
            bytes: vec![0; BATCH * SLOT],
            incoming: MultiHeaders::preallocate(BATCH, None),
            outgoing: MultiHeaders::preallocate(BATCH, None),
            lens: Vec::with_capacity(BATCH),
            peers: Vec::with_capacity(BATCH),
        }
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut chunks = self.bytes.chunks_exact_mut(SLOT);
        let mut slots: [_; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        self.lens.clear();
        self.peers.clear();
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.incoming,
            &mut slots,
            MsgFlags::MSG_DONTWAIT,
            None,
        )?;
        for message in received {
            self.lens.push(message.bytes);
            self.peers.push(message.address);
        }
        Ok(())
    }

    /// Sends the answers. Datagrams that the socket does not accept are lost and the load counts
    /// them.
    fn answer(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let datagrams = self.bytes.chunks_exact(SLOT).zip(&self.lens);
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        for (slice, (bytes, len)) in slices.iter_mut().zip(datagrams) {
            *slice = [IoSlice::new(&bytes[..*len])];
        }
        sendmmsg(
            socket.as_raw_fd(),
            &mut self.outgoing,
            &slices[..self.lens.len()],
            &self.peers,
            [],
            MsgFlags::MSG_DONTWAIT,
        )?;
        Ok(())
    }
}
