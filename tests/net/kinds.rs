//! One application over every kind of byte stream with a socket.

use std::{future::IntoFuture, time::Duration};

use getty::{
    Connection, Listener, Pipeline, ServiceBuilder,
    net::{TcpListener, UnixListener},
    tls::{TlsConnectLayer, TlsLayer, rustls::pki_types::ServerName},
    transport::Transport,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tower::{Service, ServiceExt, service_fn};

use crate::tls::kit::{Authority, NAME, settings, trusting};

/// A stack for any byte stream.
pub(crate) trait App {
    fn stack<T: Transport + Send + 'static>(&self) -> impl Pipeline<T> + Clone;
}

/// Returns the output of `future`. It must resolve within a minute.
pub(crate) async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("timed out")
}

/// A stream to a server.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Tcp,
    Unix,
    Tls,
}

/// All byte streams over sockets.
pub(crate) const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Unix, Kind::Tls];

/// A server over one kind of socket. It runs until it is stopped.
pub(crate) struct Server {
    address: Address,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<()>,
}

enum Address {
    Tcp(std::net::SocketAddr),
    Unix(TempDir),
    Tls(std::net::SocketAddr, Box<Authority>),
}

impl Server {
    pub(crate) async fn new(kind: Kind, app: &impl App) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (address, task) = match kind {
            Kind::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = Address::Tcp(listener.get_ref().local_addr().unwrap());
                (address, Self::serve(listener, app.stack(), stopped))
            }
            Kind::Unix => {
                let directory = tempfile::tempdir().unwrap();
                let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
                let task = Self::serve(listener, app.stack(), stopped);
                (Address::Unix(directory), task)
            }
            Kind::Tls => {
                let authority = Authority::new();
                let layer = TlsLayer::new(settings(&authority).load().unwrap());
                let stack = ServiceBuilder::new().layer(layer).service(app.stack());
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.get_ref().local_addr().unwrap();
                let task = Self::serve(listener, stack, stopped);
                (Address::Tls(address, Box::new(authority)), task)
            }
        };
        Self {
            address,
            stop,
            task,
        }
    }

    /// Serves `stack`; a shutdown must abort no session.
    pub(crate) fn serve<L: Listener>(
        listener: L,
        stack: impl Pipeline<L::Io>,
        stopped: oneshot::Receiver<()>,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let stopped = async move {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let serve = getty::serve(listener, stack).with_graceful_shutdown(stopped);
            let drained = serve.await.expect("the stack is always ready");
            assert_eq!(drained.aborted, 0);
        })
    }

    /// Connects to the server without getty.
    pub(crate) async fn dial(&self) -> Box<dyn Io> {
        match &self.address {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
            Address::Unix(directory) => {
                let path = directory.path().join("socket");
                Box::new(UnixStream::connect(path).await.unwrap())
            }
            Address::Tls(address, authority) => {
                let name = ServerName::try_from(NAME).unwrap();
                let dial = service_fn(|address| async move {
                    let stream = TcpStream::connect(address).await?;
                    Ok::<_, std::io::Error>(Connection::new(stream))
                });
                let mut connector = ServiceBuilder::new()
                    .layer(TlsConnectLayer::new(trusting(authority)).with_server_name(name))
                    .service(dial);
                let connection = connector.ready().await.unwrap().call(*address);
                Box::new(connection.await.unwrap().into_parts().0)
            }
        }
    }
}
