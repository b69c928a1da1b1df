//! UDP servers. Each is on one runtime.

use std::{
    collections::HashMap,
    future::ready,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Reply, Request, ServiceBuilder, SessionLayer,
    codec::Raw,
    net::{Datagram, UdpEndpoint, UdpListener},
};
use socket2::{Domain, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc};

use super::{Kind, mmsg};

/// Receive buffer of a socket, in bytes. The system may allow less. All servers must use the
/// same size.
const RECV_BUFFER: usize = 4 << 20;
/// Idle timeout of a peer's session.
pub const EXPIRY: Duration = Duration::from_secs(4);
/// Capacity of the channel to a peer's task in [`Kind::HandTasks`], in datagrams.
const QUEUE: usize = 64;

const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

impl Kind {
    /// Serves on the current runtime and returns the address. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// If a socket cannot be bound.
    pub async fn listen(self) -> io::Result<SocketAddr> {
        match self {
            Self::Hand => by_hand(1),
            Self::HandTwoSockets => by_hand(2),
            Self::HandMmsg => mmsg::listen(bind(ANY_PORT)?),
            Self::HandTasks => by_hand_with_tasks(),
            Self::Getty => sessions(1).await,
            Self::GettyTwoSockets => sessions(2).await,
            Self::GettyEndpoint => endpoint(),
        }
    }
}

/// Binds a socket with a large receive buffer.
fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(RECV_BUFFER)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Serves a hand-written loop without sessions on each of several sockets on one port.
fn by_hand(sockets: usize) -> io::Result<SocketAddr> {
    let mut address = ANY_PORT;
    for _ in 0..sockets {
        let socket = UdpSocket::from_std(bind(address)?)?;
        address = socket.local_addr()?;
        tokio::spawn(async move {
            let mut buf = vec![0; 65_536];
            loop {
                let (len, peer) = socket.recv_from(&mut buf).await?;
                socket.send_to(&buf[..len], peer).await?;
            }
            #[expect(unreachable_code, reason = "gives the task its error type")]
            Ok::<_, io::Error>(())
        });
    }
    Ok(address)
}

/// Serves with one task that receives and a task for each peer.
fn by_hand_with_tasks() -> io::Result<SocketAddr> {
    let socket = Arc::new(UdpSocket::from_std(bind(ANY_PORT)?)?);
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        let mut peers: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut buf = vec![0; 65_536];
        loop {
            let (len, address) = socket.recv_from(&mut buf).await?;
            let peer = peers.entry(address).or_insert_with(|| {
                let (sender, mut datagrams) = mpsc::channel::<Vec<u8>>(QUEUE);
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    while let Some(datagram) = datagrams.recv().await {
                        socket.send_to(&datagram, address).await?;
                    }
                    Ok::<_, io::Error>(())
                });
                sender
            });
            // A datagram is dropped if the channel is full. The network may do so too.
            let _ = peer.try_send(buf[..len].to_vec());
        }
        #[expect(unreachable_code, reason = "gives the task its error type")]
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

async fn sessions(sockets: usize) -> io::Result<SocketAddr> {
    let listener = UdpListener::builder()
        .with_sockets(sockets)
        .with_recv_buffer_size(RECV_BUFFER)
        .with_idle_timeout(EXPIRY)
        .bind(ANY_PORT)
        .await?;
    let address = listener.local_addr()?;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<_>| {
            ready(Ok::<_, BoxError>(Reply::one(request.into_message())))
        });
    tokio::spawn(async move { getty::serve(listener, stack).await });
    Ok(address)
}

fn endpoint() -> io::Result<SocketAddr> {
    let endpoint = UdpEndpoint::try_from(bind(ANY_PORT)?)?;
    let address = endpoint.local_addr();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Datagram<_>>| {
            ready(Ok::<_, BoxError>(Reply::one(request.into_message())))
        });
    tokio::spawn(async move { getty::serve(endpoint, stack).await });
    Ok(address)
}
