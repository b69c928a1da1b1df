//! The hand-written loop that receives and sends many datagrams in one call each.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket as StdSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use tokio::{io::Interest, net::UdpSocket};

/// As many at a time as getty receives.
const BATCH: usize = 32;
/// Longer datagrams are cut: the cases have none.
const SLOT: usize = 2048;

/// Serves on the runtime that this is called on.
pub(super) fn listen(socket: StdSocket) -> io::Result<SocketAddr> {
    let socket = UdpSocket::from_std(socket)?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        loop {
            socket.readable().await?;
            let turn = ROOM.with_borrow_mut(|room| {
                socket.try_io(Interest::READABLE, || room.receive(&socket))?;
                room.answer(&socket)
            });
            match turn {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        #[expect(unreachable_code, reason = "it says what the errors are")]
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

thread_local! {
    // the headers cannot move to another thread with the task
    static ROOM: RefCell<Room> = RefCell::new(Room::new());
}

struct Room {
    bytes: Vec<u8>,
    /// Two, for sending leaves its addresses where receiving would write.
    incoming: MultiHeaders<SockaddrIn>,
    outgoing: MultiHeaders<SockaddrIn>,
    lens: Vec<usize>,
    peers: Vec<Option<SockaddrIn>>,
}

impl Room {
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

    /// What the socket does not take at once is lost, and the load counts it.
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
