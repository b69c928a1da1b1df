//! Faults of whole processes: killed, stopped, out of descriptors, out of memory, and with logs
//! on a full disk. Each process is this program, started again as [`child`].

use std::{
    env,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use getty::{
    BoxError, Client, CloseReason, CodecLayer, Layer, MemoryBudget, Request, ServiceBuilder,
    SessionLayer,
    client::Backoff,
    codec::Lines,
    layers::{IdleTimeoutLayer, TraceLayer},
    net::{TcpConnector, TcpListener, UdpConnector, UdpListener, UnixConnector, UnixListener},
    serve,
    ws::{WsConnectLayer, WsLayer},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
};

use crate::app::{Side, Tls, soon};

/// Names the job of a child and its arguments.
const JOB: &str = "GETTY_TEST_FAULTS_JOB";

/// A child process that is killed at the end.
struct Process {
    child: Child,
    output: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(job: &str) -> Self {
        Self::with(job, |_| {})
    }

    fn with(job: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "processes::child",
                "--nocapture",
                "--include-ignored",
            ])
            .env(JOB, job)
            .stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, output }
    }

    /// Returns the rest of the next line that begins with `what`.
    fn line(&mut self, what: &str) -> String {
        self.output
            .find_map(|line| Some(line.unwrap().split_once(what)?.1.to_owned()))
            .unwrap_or_else(|| panic!("the child never printed `{what}`"))
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    Tcp,
    Tls,
    Ws,
    Unix,
    Udp,
}

const NETS: [Net; 5] = [Net::Tcp, Net::Tls, Net::Ws, Net::Unix, Net::Udp];

impl Net {
    fn parse(name: &str) -> Self {
        let named = |net: &Net| format!("{net:?}") == name;
        NETS.into_iter().find(named).unwrap()
    }
}

/// Serves `side` until the process ends. Prints where it listens.
async fn serve_at(net: Net, at: &str, side: &Side, tls: &Tls) {
    let inner = side.server();
    let tcp = async || TcpListener::bind(at).await.unwrap();
    let listening = |address: SocketAddr| println!("listening {address}");
    match net {
        Net::Unix => {
            let listener = UnixListener::bind(at).unwrap();
            println!("listening {at}");
            serve(listener, side.outside(inner)).await.unwrap();
        }
        Net::Udp => {
            let listener = UdpListener::bind(at).await.unwrap();
            listening(listener.local_addr().unwrap());
            serve(listener, side.outside(inner)).await.unwrap();
        }
        Net::Tls => {
            let listener = tcp().await;
            listening(listener.local_addr().unwrap());
            let stack = side.outside(tls.accept().layer(inner));
            serve(listener, stack).await.unwrap();
        }
        Net::Ws => {
            let listener = tcp().await;
            listening(listener.local_addr().unwrap());
            let stack = side.outside(WsLayer::new().layer(inner));
            serve(listener, stack).await.unwrap();
        }
        Net::Tcp => {
            let listener = tcp().await;
            listening(listener.local_addr().unwrap());
            serve(listener, side.outside(inner)).await.unwrap();
        }
    }
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
    let words: Vec<&str> = job.split(' ').collect();
    run(async {
        match words[..] {
            ["serve", net, at] => {
                // A certificate that the parent made would have to be passed on. TLS clients of
                // children are tested by the child's own client.
                serve_at(Net::parse(net), at, &Side::new(), &Tls::new()).await;
            }
            ["call", net, at] => {
                let side = Side::new();
                let client = client_of(Net::parse(net), at, &side, &Tls::new());
                client.send("?work".to_owned()).await.unwrap();
                println!("called");
                std::future::pending::<()>().await;
            }
            ["few-descriptors", net, at] => few_descriptors(Net::parse(net), at).await,
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

/// The reasons that the contract gives to the end of a killed peer.
fn assert_killed(net: Net, reason: &CloseReason) {
    let is_right = match net {
        Net::Tcp | Net::Unix => matches!(reason, CloseReason::Io | CloseReason::PeerClosed),
        // The kernel ends the connection, and the protocol does not.
        Net::Tls => *reason == CloseReason::Io,
        Net::Ws => matches!(
            reason,
            CloseReason::Io | CloseReason::Protocol { code: 1006, .. }
        ),
        Net::Udp => matches!(reason, CloseReason::Io | CloseReason::IdleTimeout),
    };
    assert!(is_right, "{net:?}: {reason:?}");
}

#[test]
fn server_outlives_clients_that_are_killed_in_mid_session() {
    for net in NETS {
        run(async {
            if net == Net::Tls {
                return; // the kernel resets it as it resets TCP; rows 1 and 2 of docs/faults.md
            }
            let side = Side::new();
            side.close_gates(false, true);
            let (at, _directory) = address_for(net);
            let inner = ServiceBuilder::new()
                .layer(IdleTimeoutLayer::any_traffic(Duration::from_millis(500)))
                .service(side.server());
            let (address, served) = match net {
                Net::Unix => {
                    let listener = UnixListener::bind(&at).unwrap();
                    let stack = side.outside(inner);
                    (
                        at,
                        tokio::spawn(async move { serve(listener, stack).await }),
                    )
                }
                Net::Udp => {
                    let listener = UdpListener::bind(&at).await.unwrap();
                    let address = listener.local_addr().unwrap().to_string();
                    let stack = side.outside(inner);
                    (
                        address,
                        tokio::spawn(async move { serve(listener, stack).await }),
                    )
                }
                _ => {
                    let listener = TcpListener::bind(&at).await.unwrap();
                    let address = listener.local_addr().unwrap().to_string();
                    let served = if net == Net::Ws {
                        let stack = side.outside(WsLayer::new().layer(inner));
                        tokio::spawn(async move { serve(listener, stack).await })
                    } else {
                        let stack = side.outside(inner);
                        tokio::spawn(async move { serve(listener, stack).await })
                    };
                    (address, served)
                }
            };
            let mut peer = Process::start(&format!("call {net:?} {address}"));
            side.until(|side| side.working.load(SeqCst) == 1).await;
            peer.kill();
            tokio::time::sleep(Duration::from_millis(20)).await;
            side.open_gates();
            side.settle(&net).await;
            assert_killed(net, &side.reasons()[0]);
            served.abort();
        });
    }
}

#[test]
fn client_reconnects_after_its_server_is_killed_in_mid_session() {
    for net in NETS {
        run(async {
            if net == Net::Tls {
                return; // the kernel resets it as it resets TCP; rows 1 and 2 of docs/faults.md
            }
            let side = Side::new();
            let (at, _directory) = address_for(net);
            let mut server = Process::start(&format!("serve {net:?} {at}"));
            let address = server.line("listening ");
            let client = client_of(net, &address, &side, &Tls::new());
            client.send("?one".to_owned()).await.unwrap();
            while side.hear().await != "!one" {}
            let session = client.session().await.unwrap();
            server.kill();
            if net == Net::Udp {
                // The next datagram is refused.
                while !session.is_closed() {
                    let _ = session.try_send("?anyone".to_owned());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let closed = soon(session.closed()).await;
            assert_killed(net, &closed.reason);
            let mut second = Process::start(&format!("serve {net:?} {address}"));
            second.line("listening ");
            soon(async {
                loop {
                    let _ = client.send("?two".to_owned()).await;
                    let heard = async { while side.hear().await != "!two" {} };
                    if tokio::time::timeout(Duration::from_secs(1), heard)
                        .await
                        .is_ok()
                    {
                        return;
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

/// Serves with a limit of descriptors. Accepting pauses and continues, for every listener.
async fn few_descriptors(net: Net, at: &str) {
    limit_descriptors(64);
    serve_at(net, at, &Side::new(), &Tls::new()).await;
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
    let mut server = Process::start(&format!("few-descriptors Unix {at}"));
    server.line("listening ");
    let mut peers: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&at).unwrap())
        .collect();
    for peer in &mut peers {
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
    for _ in 0..3 {
        let waits = |state: &getty::client::ClientState| {
            matches!(state, getty::client::ClientState::Waiting(_))
        };
        soon(states.wait_for(waits)).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
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
    let mut server = Process::start("serve Tcp 127.0.0.1:0");
    let address = server.line("listening ");
    let mut client = Process::start(&format!("few-descriptors-client {address}"));
    client.line("connected");
    assert!(client.child.wait().unwrap().success());
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
    let mut server = Process::start("little-memory");
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
    assert!(server.child.try_wait().unwrap().is_none(), "it still runs");
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
    let stack = other.outside(getty::BoxPipeline::new(stack));
    let printed = other.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            println!("ended {}", printed.records().len());
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
        let mut server = Process::with("full-disk", |command| {
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
        let ended = std::iter::repeat_with(|| server.line("ended ")).take(2000);
        assert!(
            ended.into_iter().any(|count| count == "3"),
            "a callback is missing"
        );
        assert!(server.child.try_wait().unwrap().is_none(), "it still runs");
    }
}

/// A process that was stopped for longer than all its timeouts serves on: what its peers have
/// sent meanwhile is read before anything is late.
#[test]
fn server_that_was_stopped_for_a_while_serves_on() {
    let mut server = Process::start("serve Tcp 127.0.0.1:0");
    let address = server.line("listening ");
    run(async {
        let mut peer = TcpStream::connect(&address).await.unwrap();
        for _ in 0..2 {
            server.signal(Signal::STOP);
            peer.write_all(b"?hello\n").await.unwrap();
            // Dials wait in the kernel's queue.
            let mut other = TcpStream::connect(&address).await.unwrap();
            other.write_all(b"?hello\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            server.signal(Signal::CONT);
            for peer in [&mut peer, &mut other] {
                let mut heard = Vec::new();
                while !heard.ends_with(b"!hello\n") {
                    let mut buffer = [0; 100];
                    let length = soon(peer.read(&mut buffer)).await.unwrap();
                    assert!(length > 0);
                    heard.extend_from_slice(&buffer[..length]);
                }
            }
        }
    });
}
