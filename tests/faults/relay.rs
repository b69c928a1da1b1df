//! A relay between a client and a server that cuts, holds and resets connections on order.

use std::{cell::Cell, io, net::SocketAddr, sync::Arc};

use tokio::net::{UnixListener, UnixStream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::app::{Address, soon};

/// Direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Server = 0,
    Client = 1,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Forwards this number of bytes and then holds the direction.
    Limit(To, usize),
    /// Resets both connections. A Unix socket is closed with its input unread, which the peer
    /// sees as a reset.
    Reset,
    /// Ends the direction, as a peer does that has nothing more to send. Later
    /// bytes for it are discarded.
    Finish(To),
}

#[derive(Default)]
struct State {
    /// Directions that are held.
    held: [bool; 2],
    /// Number of orders that were carried out.
    done: usize,
}

/// A relay for one connection.
pub(crate) struct Relay {
    pub(crate) address: Address,
    orders: mpsc::UnboundedSender<Order>,
    /// Number of orders that were given.
    given: Cell<usize>,
    state: watch::Receiver<State>,
    pub(crate) task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn new(server: &Address) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let (states, state) = watch::channel(State::default());
        let server = server.clone();
        let (address, task) = match &server {
            Address::Ip(_) => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = Address::Ip(listener.local_addr().unwrap());
                let task = tokio::spawn(async move {
                    let (client, _) = listener.accept().await.unwrap();
                    drop(listener);
                    let Address::Ip(server) = server else {
                        unreachable!()
                    };
                    let server = TcpStream::connect(server).await.unwrap();
                    relay([client, server], received, states, reset_tcp).await;
                });
                (address, task)
            }
            Address::Path(directory) => {
                let own = Arc::new(tempfile::tempdir().unwrap());
                let listener = UnixListener::bind(own.path().join("socket")).unwrap();
                let path = directory.path().join("socket");
                let task = tokio::spawn(async move {
                    let (client, _) = listener.accept().await.unwrap();
                    let server = UnixStream::connect(path).await.unwrap();
                    relay([client, server], received, states, |_| {}).await;
                });
                (Address::Path(own), task)
            }
        };
        Self {
            address,
            orders,
            given: Cell::new(0),
            state,
            task,
        }
    }

    pub(crate) fn order(&self, order: Order) {
        self.given.update(|given| given + 1);
        // The relay has ended if both ends have.
        let _ = self.orders.send(order);
    }

    /// Waits until all orders are carried out or the relay has ended. Both ends are on this
    /// machine, so that a reset or an end has then arrived.
    pub(crate) async fn carried_out(&self) {
        let given = self.given.get();
        let mut state = self.state.clone();
        let _ = soon(state.wait_for(|state| state.done >= given)).await;
    }

    /// Waits until the limit of a direction is reached.
    pub(crate) async fn held(&mut self, to: To) {
        let held = self.state.wait_for(|state| state.held[to as usize]);
        soon(held).await.unwrap();
    }
}

/// Resets a connection when it is dropped.
pub(crate) fn reset_tcp(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Dials `address` and resets the connection at once.
pub(crate) async fn reset_at_once(address: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    reset_tcp(&stream);
    Ok(())
}

async fn relay<T: AsyncRead + AsyncWrite + Unpin>(
    [mut client, mut server]: [T; 2],
    mut orders: mpsc::UnboundedReceiver<Order>,
    states: watch::Sender<State>,
    reset: fn(&T),
) {
    let mut left = [usize::MAX; 2];
    let mut ended = [false; 2];
    // Direction whose bytes are discarded.
    let mut cut = [false; 2];
    let mut buffers = [[0; 4096]; 2];
    let [to_server, to_client] = &mut buffers;
    loop {
        let rooms = [0, 1].map(|to| if cut[to] { 4096 } else { left[to].min(4096) });
        tokio::select! {
            biased;
            order = orders.recv() => {
                match order {
                    Some(Order::Limit(to, bytes)) => left[to as usize] = bytes,
                    Some(Order::Reset) => {
                        reset(&client);
                        reset(&server);
                        // Dropped before `states`, whose end shows that the order is carried out.
                        drop((client, server));
                        return;
                    }
                    Some(Order::Finish(to)) => {
                        cut[to as usize] = true;
                        let peer = if to == To::Server { &mut server } else { &mut client };
                        let _ = peer.shutdown().await;
                    }
                    None => return,
                }
                states.send_modify(|state| {
                    state.done += 1;
                    state.held = left.map(|left| left == 0);
                });
            }
            read = client.read(&mut to_server[..rooms[0]]), if !ended[0] && rooms[0] > 0 => {
                forward(read, To::Server, &mut server, to_server, &mut left, &mut ended, cut).await;
            }
            read = server.read(&mut to_client[..rooms[1]]), if !ended[1] && rooms[1] > 0 => {
                forward(read, To::Client, &mut client, to_client, &mut left, &mut ended, cut).await;
            }
        }
        let held = left.map(|left| left == 0);
        states.send_if_modified(|state| std::mem::replace(&mut state.held, held) != held);
        if ended == [true; 2] {
            return;
        }
    }
}

async fn forward<T: AsyncWrite + Unpin>(
    read: io::Result<usize>,
    to: To,
    peer: &mut T,
    buffer: &[u8],
    left: &mut [usize; 2],
    ended: &mut [bool; 2],
    cut: [bool; 2],
) {
    let to = to as usize;
    let bytes = read.unwrap_or(0);
    if bytes == 0 {
        ended[to] = true;
        let _ = peer.shutdown().await;
        return;
    }
    if !cut[to] {
        left[to] = left[to].saturating_sub(bytes);
        if peer.write_all(&buffer[..bytes]).await.is_err() {
            // The other end has gone: nothing more reaches it.
            ended[to] = true;
        }
    }
}
