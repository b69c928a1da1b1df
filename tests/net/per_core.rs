//! One port with a runtime and a listener per thread, as in the example `per_core`.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Drained, Request, ServiceBuilder, Session, SessionLayer, codec::Lines,
    layers::Group, net::TcpListener,
};
use tokio::{runtime, sync::watch};

const THREADS: usize = 2;

/// Serves on a new runtime until `stop` is set. Each answer is the name of the thread that sent
/// it.
fn serve_on_a_thread(
    name: String,
    address: SocketAddr,
    group: Group<String>,
    mut stop: watch::Receiver<bool>,
) -> (SocketAddr, JoinHandle<Drained>) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::builder().with_reuse_port(true);
    let listener = runtime.block_on(listener.bind(address)).unwrap();
    let address = listener.local_addr().unwrap();
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let session: &Session<String> = request.session();
            group.join(session);
            let name = thread::current().name().unwrap().to_owned();
            async move { Ok::<_, BoxError>(name) }
        });
    let serve = move || {
        runtime.block_on(async {
            getty::serve(listener, app)
                .with_graceful_shutdown(async move {
                    stop.wait_for(|stop| *stop).await.unwrap();
                })
                .await
                .unwrap()
        })
    };
    let thread = thread::Builder::new().name(name).spawn(serve).unwrap();
    (address, thread)
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self) -> String {
        self.0.get_mut().write_all(b"who?\n").unwrap();
        self.line()
    }
}

#[test]
fn threads_that_share_a_port_each_keep_their_connections_to_the_end() {
    let (stop, stopped) = watch::channel(false);
    let group = Group::new();
    let mut address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut serving = Vec::new();
    for index in 0..THREADS {
        let (name, group, stopped) = (format!("core-{index}"), group.clone(), stopped.clone());
        let (bound, thread) = serve_on_a_thread(name, address, group, stopped);
        address = bound;
        serving.push(thread);
    }

    // The kernel chooses by a hash: 200 connections go to one thread in one run of 2^199.
    let mut peers: Vec<(Peer, String)> = Vec::new();
    let mut threads = BTreeSet::new();
    while threads.len() < THREADS {
        assert!(peers.len() < 200, "all connections went to {threads:?}");
        let mut peer = Peer::dial(address);
        let thread = peer.ask();
        threads.insert(thread.clone());
        peers.push((peer, thread));
    }
    for (peer, thread) in &mut peers {
        assert_eq!(peer.ask(), *thread, "a connection stays on its thread");
    }

    // Any thread may send to a session. This one has no runtime.
    assert_eq!(group.len(), peers.len());
    let _ = group.broadcast("to all".to_owned());
    for (peer, _) in &mut peers {
        assert_eq!(peer.line(), "to all");
    }

    stop.send(true).unwrap();
    let finished: usize = serving
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .map(|drained| {
            assert_eq!(drained.aborted, 0);
            drained.finished
        })
        .sum();
    assert_eq!(finished, peers.len());
    for (peer, _) in &mut peers {
        assert_eq!(peer.line(), "", "the server ends the connection");
    }
}
