//! Faults of whole processes: killed, stopped, out of descriptors, out of memory, and with logs
//! on a full disk. Each process is this program, started again as [`child`].

use std::{
    env,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, Client, CloseReason, Closed, CodecLayer, Layer, MemoryBudget, Request,
    ServiceBuilder, SessionLayer,
    client::{Backoff, ClientState},
    codec::Lines,
    layers::{IdleTimeoutLayer, TraceLayer},
    net::{
        Listener, TcpConnector, TcpListener, UdpConnector, UdpListener, UnixConnector, UnixListener,
    },
    serve,
    ws::{WsConnectLayer, WsLayer},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    task::JoinHandle,
};

use crate::{
    app::{Side, Tls, soon},
    children::Process,
};

/// Idle timeout of sessions whose end a test waits for.
const IDLE: Duration = Duration::from_secs(1);

/// Names the job of a child and its arguments.
const JOB: &str = "GETTY_TEST_FAULTS_JOB";
/// The certificate and the key of a child, as PEM.
const PEM: [&str; 2] = ["GETTY_TEST_FAULTS_CERT", "GETTY_TEST_FAULTS_KEY"];

/// Starts a child that does `job`.
fn start(job: &str) -> Process {
    start_with(job, &Tls::new(), |_| {})
}

/// Starts a child that does `job` and has this certificate.
fn start_with(job: &str, tls: &Tls, change: impl FnOnce(&mut Command)) -> Process {
    Process::start("processes::child", |command| {
        command.env(JOB, job).envs(PEM.into_iter().zip(&tls.pem));
        change(command);
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    Tcp,
    Tls,
    Ws,
    Wss,
    Unix,
    Udp,
}

const NETS: [Net; 6] = [Net::Tcp, Net::Tls, Net::Ws, Net::Wss, Net::Unix, Net::Udp];

impl Net {
    fn parse(name: &str) -> Self {
        let named = |net: &Net| format!("{net:?}") == name;
        NETS.into_iter().find(named).unwrap()
    }
}

/// Returns the session stack of `side`, with an idle timeout.
fn session(side: &Side, idle: Option<Duration>) -> BoxPipeline {
    let Some(idle) = idle else {
        return side.server();
    };
    let layer = IdleTimeoutLayer::any_traffic(idle);
    BoxPipeline::new(ServiceBuilder::new().layer(layer).service(side.server()))
}

/// Serves `session` until the task is aborted. Returns the address and the task.
async fn listen(
    net: Net,
    at: &str,
    side: &Side,
    session: BoxPipeline,
    tls: &Tls,
) -> (String, JoinHandle<()>) {
    fn spawn<L: Listener>(
        listener: L,
        side: &Side,
        stack: impl getty::Pipeline<L::Io> + Clone,
    ) -> JoinHandle<()> {
        let stack = side.outside(stack);
        tokio::spawn(async move {
            serve(listener, stack).await.unwrap();
        })
    }
    if net == Net::Unix {
        let listener = UnixListener::bind(at).unwrap();
        return (at.to_owned(), spawn(listener, side, session));
    }
    if net == Net::Udp {
        let listener = UdpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        return (address, spawn(listener, side, session));
    }
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tls, ws) = (tls.accept(), WsLayer::new());
    let task = match net {
        Net::Tls => spawn(listener, side, tls.layer(session)),
        Net::Ws => spawn(listener, side, ws.layer(session)),
        Net::Wss => spawn(listener, side, tls.layer(ws.layer(session))),
        _ => spawn(listener, side, session),
    };
    (address, task)
}

/// Serves until the process ends. Prints where it listens.
async fn serve_at(net: Net, at: &str, idle: Option<Duration>, tls: &Tls) {
    let side = Side::new();
    let (address, served) = listen(net, at, &side, session(&side, idle), tls).await;
    println!("listening {address}");
    served.await.unwrap();
}

/// Connects a client that reconnects.
fn client_of(net: Net, at: &str, side: &Side, tls: &Tls) -> Client<String> {
    let builder = side.clone();
    macro_rules! build {
        () => {
            move |link| builder.outside(builder.client(link))
        };
    }
    let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let client = Client::builder().with_backoff(backoff);
    let address = || at.parse::<SocketAddr>().unwrap();
    match net {
        Net::Unix => client.connect(UnixConnector::new(), PathBuf::from(at), build!()),
        Net::Udp => client.connect(UdpConnector::new(), address(), build!()),
        Net::Tls => {
            let connector = tls.connect().layer(TcpConnector::new());
            client.connect(connector, address(), build!())
        }
        Net::Ws => {
            let connector = WsConnectLayer::new().layer(TcpConnector::new());
            client.connect(connector, format!("ws://{at}/"), build!())
        }
        Net::Wss => {
            let connector = tls.connect().layer(TcpConnector::new());
            let connector = WsConnectLayer::new().layer(connector);
            client.connect(connector, format!("wss://{at}/"), build!())
        }
        Net::Tcp => client.connect(TcpConnector::new(), address(), build!()),
    }
}

fn run<F: Future<Output = ()>>(future: F) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future);
}

/// Entry point of the child processes.
#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    let Ok(job) = env::var(JOB) else {
        return;
    };
    let tls = Tls::from_pem(PEM.map(|name| env::var(name).unwrap()));
    let words: Vec<&str> = job.split(' ').collect();
    run(async {
        match words[..] {
            ["serve", net, at] => serve_at(Net::parse(net), at, None, &tls).await,
            ["serve-busy-peers", net, at] => serve_at(Net::parse(net), at, Some(IDLE), &tls).await,
            ["call", net, at] => {
                let side = Side::new();
                let client = client_of(Net::parse(net), at, &side, &tls);
                client.send("?work".to_owned()).await.unwrap();
                std::future::pending::<()>().await;
            }
            ["few-descriptors", net, at] => {
                limit_descriptors(64);
                serve_at(Net::parse(net), at, None, &tls).await;
            }
            ["few-descriptors-client", at] => few_descriptors_client(at).await,
            ["little-memory"] => little_memory().await,
            ["full-disk"] => full_disk().await,
            _ => panic!("no such job: {job}"),
        }
    });
}

/// Returns an address at which nothing listens, and what keeps its file.
fn address_for(net: Net) -> (String, Option<tempfile::TempDir>) {
    if net == Net::Unix {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        return (path.to_str().unwrap().to_owned(), Some(directory));
    }
    ("127.0.0.1:0".to_owned(), None)
}

/// Asserts that a session ended as the contract promises for a killed peer. The kernel ends
/// the connection, and the protocol does not.
#[track_caller]
fn assert_killed(net: Net, closed: &Closed) {
    let reason = &closed.reason;
    let is_right = match net {
        // On a plain stream an end is an end. The kernel resets it if input was unread.
        Net::Tcp | Net::Unix => matches!(reason, CloseReason::Io | CloseReason::PeerClosed),
        // No `close_notify`, or a reset.
        Net::Tls => *reason == CloseReason::Io && closed.source.is_some(),
        // No close frame, or an error of the stream below.
        Net::Ws | Net::Wss => match reason {
            CloseReason::Protocol { code: 1006, .. } => true,
            CloseReason::Io => closed.source.is_some(),
            _ => false,
        },
        Net::Udp => matches!(reason, CloseReason::Io | CloseReason::IdleTimeout),
    };
    assert!(is_right, "{net:?}: {closed:?}");
    assert!(!closed.orderly, "{net:?}: {closed:?}");
}

#[test]
fn server_outlives_clients_that_are_killed_in_mid_session() {
    let tls = Tls::new();
    for net in NETS {
        run(async {
            let side = Side::new();
            side.close_gates(false, true);
            let (at, _directory) = address_for(net);
            // No datagram shows that a peer is gone, so that its session ends after this time.
            let idle = (net == Net::Udp).then_some(IDLE);
            let stack = session(&side, idle);
            let (address, served) = listen(net, &at, &side, stack, &tls).await;
            let mut killed = start_with(&format!("call {net:?} {address}"), &tls, |_| {});
            side.until(|side| side.working.load(SeqCst) == 1).await;
            let session = side.sessions.all().pop().unwrap();
            killed.kill();
            if net != Net::Udp {
                // The session notices it while its handler waits.
                soon(session.peer_finished()).await;
            }
            side.open_gates();
            side.settle(&net).await;
            assert_killed(net, &side.records()[0]);
            // The next peer is served.
            let mut next = start_with(&format!("call {net:?} {address}"), &tls, |_| {});
            side.until(|side| side.working.load(SeqCst) == 2).await;
            next.kill();
            side.settle(&net).await;
            assert_killed(net, &side.records()[1]);
            served.abort();
        });
    }
}

#[test]
fn client_reconnects_after_its_server_is_killed_in_mid_session() {
    let tls = Tls::new();
    for net in NETS {
        run(async {
            let side = Side::new();
            let (at, _directory) = address_for(net);
            let mut server = start_with(&format!("serve {net:?} {at}"), &tls, |_| {});
            let address = server.line("listening ");
            let client = client_of(net, &address, &side, &tls);
            client.send("?one".to_owned()).await.unwrap();
            while side.hear().await != "!one" {}
            let session = client.session().await.unwrap();
            server.kill();
            if net == Net::Udp {
                // The kernel refuses it, which the session notices.
                let _ = session.try_send("?anyone".to_owned());
            }
            assert_killed(net, &soon(session.closed()).await);
            let mut second = start_with(&format!("serve {net:?} {address}"), &tls, |_| {});
            second.line("listening ");
            soon(async {
                loop {
                    let session = client.session().await.unwrap();
                    let _ = session.try_send("?two".to_owned());
                    tokio::select! {
                        () = async { while side.hear().await != "!two" {} } => return,
                        // Over UDP a session opens while nothing listens, and is refused later.
                        _ = session.closed() => {}
                    }
                }
            })
            .await;
            client.stop();
            client.stopped().await;
            side.settle(&net).await;
        });
    }
}

fn limit_descriptors(number: u64) {
    let limit = Rlimit {
        current: Some(number),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[test]
fn unix_listener_accepts_again_after_the_descriptors_were_used_up() {
    use std::os::unix::net::UnixStream;

    let (at, _directory) = address_for(Net::Unix);
    let mut server = start(&format!("few-descriptors Unix {at}"));
    server.line("listening ");
    let mut peers: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&at).unwrap())
        .collect();
    for peer in &mut peers {
        peer.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        peer.write_all(b"?hello\n").unwrap();
    }
    // Those that were accepted are answered. Each that ends makes room for another.
    for peer in peers {
        let mut lines = BufReader::new(peer).lines();
        let answer = lines.find(|line| line.as_ref().unwrap() == "!hello");
        assert!(answer.is_some());
    }
}

/// Uses all descriptors, lets a client try, frees them and waits for its session.
async fn few_descriptors_client(at: &str) {
    limit_descriptors(64);
    let side = Side::new();
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let client = client_of(Net::Tcp, at, &side, &Tls::new());
    let mut states = client.watch();
    // The client waits after each attempt that has failed.
    let mut failed = 0;
    while failed < 3 {
        let state = soon(states.changed()).await.unwrap();
        failed += u32::from(matches!(state, ClientState::Waiting(_)));
    }
    assert!(side.records().is_empty());
    drop(files);
    client.send("?hello".to_owned()).await.unwrap();
    while side.hear().await != "!hello" {}
    client.stop();
    client.stopped().await;
    side.settle(&"few descriptors").await;
    println!("connected");
}

#[test]
fn client_connects_once_descriptors_are_free_again() {
    let mut server = start("serve Tcp 127.0.0.1:0");
    let address = server.line("listening ");
    let mut client = start(&format!("few-descriptors-client {address}"));
    client.line("connected");
    let status = client.ended(Duration::from_secs(60));
    assert!(status.success(), "{status}\n{}", client.printed());
}

/// Peers that request large replies and read none of them.
const GREEDY: usize = 300;
/// Size of a reply.
const REPLY: usize = 60 * 1024;
/// Memory beyond that of the process at its start.
const MEMORY: u64 = 192 * 1024 * 1024;

/// Serves with a limit of its address space. Without bounds the replies would take 1.1 GB.
async fn little_memory() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = Rlimit {
        current: Some(pages * 4096 + MEMORY),
        ..getrlimit(Resource::As)
    };
    setrlimit(Resource::As, limit).unwrap();
    let budget = MemoryBudget::new(32 * 1024 * 1024);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(
            SessionLayer::new()
                .with_write_timeout(None)
                .with_memory_budget(budget),
        )
        .service_fn(async |request: Request<String>| {
            let message = request.into_message();
            let reply = match message.as_str() {
                "much" => "x".repeat(REPLY),
                _ => message,
            };
            Ok::<_, BoxError>(reply)
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening {}", listener.local_addr().unwrap());
    serve(listener, stack).await.unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn server_with_little_memory_outlives_peers_that_read_nothing() {
    let mut server = start("little-memory");
    let address = server.line("listening ");
    run(async {
        let mut greedy = Vec::new();
        for _ in 0..GREEDY {
            let mut peer = TcpStream::connect(&address).await.unwrap();
            peer.write_all("much\n".repeat(64).as_bytes())
                .await
                .unwrap();
            greedy.push(peer);
        }
        // A peer that reads is served meanwhile.
        for _ in 0..3 {
            let mut peer = TcpStream::connect(&address).await.unwrap();
            peer.write_all(b"hello\n").await.unwrap();
            let mut answer = [0; 6];
            soon(peer.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"hello\n");
        }
        // The others get what they wait for once they read.
        let mut first = greedy.swap_remove(0);
        drop(greedy);
        let mut replies = vec![0; 64 * (REPLY + 1)];
        soon(first.read_exact(&mut replies)).await.unwrap();
    });
    server.assert_running();
}

/// Serves with logs to a disk that is full. The address leaves through a pipe.
async fn full_disk() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(Arc::new(full))
        .init();
    let side = Side::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening {}", listener.local_addr().unwrap());
    // One listener without a layer that logs, whose failures the session loop logs itself.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("plain {}", plain.local_addr().unwrap());
    let traced = TraceLayer::new().layer(side.server());
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(
            async |request: Request<String>| match request.message().as_str() {
                "fail" => Err::<String, BoxError>("failed".into()),
                _ => Ok(request.into_message()),
            },
        );
    let other = Side::new();
    let stack = other.outside(BoxPipeline::new(stack));
    let printed = other.clone();
    tokio::spawn(async move {
        for ended in 1.. {
            printed.reached(|_| printed.records().len() >= ended).await;
            println!("ended {ended}");
        }
    });
    serve(listener, side.outside(traced))
        .and(serve(plain, stack))
        .await
        .unwrap();
}

/// Events are lost. Where even the error of that cannot be written, the subscriber panics, and
/// then a connection may end whose event it was. All its callbacks run, and the server goes on.
#[test]
fn server_outlives_logs_on_a_full_disk() {
    for errors_too in [false, true] {
        let mut server = start_with("full-disk", &Tls::new(), |command| {
            if errors_too {
                let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
                command.stderr(full);
            }
        });
        let traced = server.line("listening ");
        let plain = server.line("plain ");
        run(async {
            for _ in 0..3 {
                let mut peer = TcpStream::connect(&plain).await.unwrap();
                peer.write_all(b"hello\n").await.unwrap();
                let mut answer = [0; 6];
                soon(peer.read_exact(&mut answer)).await.unwrap();
                peer.write_all(b"fail\n").await.unwrap();
                let mut rest = Vec::new();
                let _ = soon(peer.read_to_end(&mut rest)).await;
                let mut peer = TcpStream::connect(&traced).await.unwrap();
                let _ = peer.write_all(b"?hello\n").await;
                let answered = soon(peer.read(&mut answer)).await;
                assert!(errors_too || answered.is_ok_and(|length| length > 0));
            }
        });
        // The callback of each connection has run.
        while server.line("ended ") != "3" {}
        server.assert_running();
    }
}

/// Reads until `line` arrives or the stream ends. Returns everything that was read.
async fn hear(peer: &mut TcpStream, line: &str) -> String {
    let mut heard = String::new();
    let mut buffer = [0; 100];
    while !heard.ends_with(line) {
        let length = soon(peer.read(&mut buffer)).await.unwrap();
        if length == 0 {
            break;
        }
        heard += str::from_utf8(&buffer[..length]).unwrap();
    }
    heard
}

/// A process is stopped for longer than the idle timeout of its sessions. Input that arrives
/// meanwhile is read before a session counts as idle, and dials are accepted.
///
/// Sessions of another process have the same timeout. Their ends show that the time has passed.
#[test]
fn server_that_was_stopped_for_longer_than_its_idle_timeout_reads_what_has_arrived_first() {
    let mut server = start("serve-busy-peers Tcp 127.0.0.1:0");
    let address = server.line("listening ");
    let mut other = start("serve-busy-peers Tcp 127.0.0.1:0");
    let clock = other.line("listening ");
    run(async {
        let dial = async |address: &str| {
            let mut peer = TcpStream::connect(address).await.unwrap();
            assert_eq!(hear(&mut peer, "!kept\n").await, "!opened\n!kept\n");
            peer
        };
        // No message has arrived, so that no session is spared because of one.
        let mut busy = dial(&address).await;
        let mut silent = dial(&address).await;
        server.stop();
        busy.write_all(b"?still there\n").await.unwrap();
        let mut new = TcpStream::connect(&address).await.unwrap();
        new.write_all(b"?new\n").await.unwrap();
        // Two timeouts, so that the deadlines of the stopped process are clearly late.
        for _ in 0..2 {
            assert_eq!(hear(&mut dial(&clock).await, "\n").await, "");
        }
        server.go_on();
        assert_eq!(hear(&mut busy, "!still there\n").await, "!still there\n");
        assert_eq!(hear(&mut new, "!new\n").await, "!opened\n!kept\n!new\n");
        // The timeout has passed here too: it ends the session without input.
        assert_eq!(hear(&mut silent, "\n").await, "");
    });
    server.assert_running();
}
