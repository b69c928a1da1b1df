//! Compares UDP echo servers, each in a process of its own, under the same load: `--help` lists the options.

use std::{
    collections::HashMap,
    error::Error,
    fmt::Write as _,
    future::ready,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use getty::{
    BoxError, CodecLayer, Reply, Request, ServiceBuilder, SessionLayer,
    codec::Raw,
    net::{UdpEndpoint, UdpListener},
};
use getty_benches::{cpu, memory, stats::Quartiles};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use tokio::{net::UdpSocket, runtime, sync::mpsc};

const USAGE: &str = "\
usage: udp [--servers A,B,..] [--cases A,B,..] [--rounds N] [--millis N] [--workers N] [--peers N]

  --servers    only these, beside the reference
  --cases      peers x datagrams in flight x payload bytes, as in 50x16x64
  --rounds     how often each server is measured on each case
  --millis     how long each of these takes, after a quarter of a second of warming up
  --workers    threads of each server; 2 by default
  --peers      instead: what so many peers keep resident after one echo each, and after they have expired
";

const WARM_UP: Duration = Duration::from_millis(250);
/// Datagrams get lost where a buffer is full; after so long without any, what is missing is sent again.
const LOST: Duration = Duration::from_millis(100);
/// Sockets from one source address.
const PEERS_PER_ADDRESS: usize = 1_000;
/// How long a silent peer of the server keeps its session, where memory is measured.
const EXPIRY: Duration = Duration::from_secs(4);
/// What the others are divided by.
const REFERENCE: &str = "hand";
/// Those that are compared, beside the reference.
const KINDS: [&str; 5] = [
    "getty",
    "getty-endpoint",
    "hand-tasks",
    "hand-two-sockets",
    "getty-two-sockets",
];

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, workers] => serve(kind, workers),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ref options => run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("udp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &[&str]) -> Fallible<()> {
    let mut cases = "1x1x64,50x1x64,50x16x64,1x64x64,1x64x1024".to_owned();
    let (mut rounds, mut millis, mut workers, mut peers) = (9, 600, "2", 0);
    let mut servers = KINDS.to_vec();
    for pair in options.chunks(2) {
        match *pair {
            ["--servers", value] => servers = value.split(',').collect(),
            ["--cases", value] => value.clone_into(&mut cases),
            ["--rounds", value] => rounds = value.parse()?,
            ["--millis", value] => millis = value.parse()?,
            ["--workers", value] => workers = value,
            ["--peers", value] => peers = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    if peers > 0 {
        return resident(peers, workers);
    }
    println!("| case | server | CPU ns a datagram | x hand-written | datagrams/s | lost |");
    println!("|---|---|--:|--:|--:|--:|");
    // the reference stands first and last, to show how far it is from itself
    servers.insert(0, REFERENCE);
    servers.push(REFERENCE);
    for case in cases.split(',') {
        let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            for turn in 0..servers.len() {
                let index = (round + turn) % servers.len();
                eprintln!("{case} {} {}/{rounds}", servers[index], round + 1);
                samples[index].push(sample(servers[index], workers, case, millis)?);
            }
        }
        for (index, kind) in servers.iter().enumerate() {
            let again = if index == servers.len() - 1 {
                ", again"
            } else {
                ""
            };
            let figures = |of: fn(&Sample) -> f64| Quartiles::of(samples[index].iter().map(of));
            let ratios = samples[index].iter().zip(&samples[0]);
            let mut line = String::new();
            if let (Some(cpu), Some(ratio), Some(rate), Some(lost)) = (
                figures(|sample| sample.cpu),
                Quartiles::of(ratios.map(|(mine, hand)| mine.cpu / hand.cpu)),
                figures(|sample| sample.rate),
                figures(|sample| sample.lost),
            ) {
                write!(
                    line,
                    "{cpu:.0} | {ratio} | {:.0} | {:.0}",
                    rate.median, lost.median
                )?;
            }
            println!("| {case} | {kind}{again} | {line} |");
        }
    }
    Ok(())
}

struct Sample {
    cpu: f64,
    rate: f64,
    lost: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn sample(kind: &str, workers: &str, case: &str, millis: u64) -> Fallible<Sample> {
    let [peers, in_flight, payload] = case.split('x').collect::<Vec<_>>()[..] else {
        return Err(format!("{case:?} is not like 50x16x64").into());
    };
    let mut server = Server::start(kind, workers)?;
    let mut load = Load::open(server.address, peers.parse()?, payload.parse()?)?;
    load.run(in_flight.parse()?, WARM_UP)?;
    let (before, echoed, lost, start) = (server.cpu()?, load.echoed, load.lost, Instant::now());
    load.run(0, Duration::from_millis(millis))?;
    let used = server.cpu()? - before;
    let echoed = (load.echoed - echoed) as f64;
    Ok(Sample {
        cpu: used as f64 / echoed,
        rate: echoed / start.elapsed().as_secs_f64(),
        lost: (load.lost - lost) as f64,
    })
}

/// What peers keep resident, and what is left of that after they have expired.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn resident(peers: usize, workers: &str) -> Fallible<()> {
    let server = Server::start("getty", workers)?;
    let mut few = Load::open(server.address, 100, 64)?;
    few.echo_once()?;
    let before = memory::resident(server.process.id())?;
    let start = Instant::now();
    let mut load = Load::open(server.address, peers, 64)?;
    load.echo_once()?;
    let took = start.elapsed();
    thread::sleep(Duration::from_millis(300));
    let after = memory::resident(server.process.id())?;
    println!(
        "{peers} peers, each answered, in {took:?}; {:.0} resident bytes a peer",
        (after as f64 - before as f64) / peers as f64
    );
    thread::sleep(EXPIRY * 2);
    let expired = memory::resident(server.process.id())?;
    println!(
        "after their expiry {:.0} resident bytes a peer are left",
        (expired as f64 - before as f64) / peers as f64
    );
    load.echo_once()?;
    println!("and all of them were answered again");
    Ok(())
}

/// A server in a process of its own, which is this program started again.
struct Server {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(kind: &str, workers: &str) -> Fallible<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", kind, workers])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take().ok_or("its input is piped")?;
        let answers = BufReader::new(process.stdout.take().ok_or("its output is piped")?);
        let mut server = Self {
            process,
            requests,
            answers,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        server.address = server.answer()?.parse()?;
        Ok(server)
    }

    fn cpu(&mut self) -> Fallible<u64> {
        self.requests.write_all(b"cpu\n")?;
        Ok(self.answer()?.parse()?)
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself already, which is as good.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// The child's side of [`Server`]: serves until the standard input ends.
fn serve(kind: &str, workers: &str) -> Fallible<()> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(workers.parse()?)
        .enable_all()
        .build()?;
    let address = match kind {
        "hand" => runtime.block_on(by_hand(1))?,
        "hand-two-sockets" => runtime.block_on(by_hand(2))?,
        "hand-tasks" => runtime.block_on(by_hand_with_tasks())?,
        "getty" => runtime.block_on(sessions(1))?,
        "getty-two-sockets" => runtime.block_on(sessions(2))?,
        "getty-endpoint" => runtime.block_on(endpoint())?,
        _ => return Err(format!("there is no server {kind:?}").into()),
    };
    let mut output = io::stdout().lock();
    writeln!(output, "{address}")?;
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(output, "{}", cpu::of_process())?;
    }
    Ok(())
}

/// A socket with as much room for what has come as the system gives.
fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// The loop that one would write by hand, which knows no sessions; one for each of so many sockets on one port.
async fn by_hand(sockets: usize) -> io::Result<SocketAddr> {
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
            #[expect(unreachable_code, reason = "it says what the errors are")]
            Ok::<_, io::Error>(())
        });
    }
    Ok(address)
}

/// How many datagrams wait for a peer's task.
const QUEUE: usize = 64;

/// What one would write by hand for a task a peer: one that reads, and gives each its datagrams by a channel.
async fn by_hand_with_tasks() -> io::Result<SocketAddr> {
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
            // where there is no room it is lost, as it might have been on the way
            let _ = peer.try_send(buf[..len].to_vec());
        }
        #[expect(unreachable_code, reason = "it says what the errors are")]
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

async fn sessions(sockets: usize) -> io::Result<SocketAddr> {
    let listener = UdpListener::builder()
        .with_sockets(sockets)
        .with_recv_buffer_size(4 << 20)
        .with_idle_timeout(EXPIRY)
        .bind((Ipv4Addr::LOCALHOST, 0))
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

async fn endpoint() -> io::Result<SocketAddr> {
    let endpoint = UdpEndpoint::try_from(bind(ANY_PORT)?)?;
    let address = endpoint.local_addr();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<getty::net::Datagram<_>>| {
            ready(Ok::<_, BoxError>(Reply::one(request.into_message())))
        });
    tokio::spawn(async move { getty::serve(endpoint, stack).await });
    Ok(address)
}

/// One thread that keeps so many datagrams in flight for each of its sockets, and looks at what comes back.
struct Load {
    poll: Poll,
    events: Events,
    peers: Vec<Peer>,
    payload: usize,
    buffer: Vec<u8>,
    echoed: u64,
    lost: u64,
}

struct Peer {
    socket: mio::net::UdpSocket,
    next: u64,
    expected: u64,
    in_flight: u64,
}

impl Load {
    fn open(address: SocketAddr, peers: usize, payload: usize) -> Fallible<Self> {
        let poll = Poll::new()?;
        let peers = (0..peers)
            .map(|index| {
                let host = u8::try_from(1 + index / PEERS_PER_ADDRESS)?;
                let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0));
                let mut socket = mio::net::UdpSocket::bind(from)?;
                socket.connect(address)?;
                poll.registry()
                    .register(&mut socket, Token(index), Interest::READABLE)?;
                Ok(Peer {
                    socket,
                    next: 0,
                    expected: 0,
                    in_flight: 0,
                })
            })
            .collect::<Fallible<Vec<_>>>()?;
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            peers,
            payload: payload.max(16),
            buffer: vec![0; 65_536],
            echoed: 0,
            lost: 0,
        })
    }

    /// One datagram for each peer and its answer.
    fn echo_once(&mut self) -> Fallible<()> {
        let awaited = self.echoed + self.peers.len() as u64;
        for index in 0..self.peers.len() {
            self.send(index)?;
            if index % 64 == 63 {
                self.turn(false, Duration::ZERO)?;
            }
        }
        while self.echoed < awaited {
            self.turn(false, LOST)?;
        }
        Ok(())
    }

    /// Adds so many datagrams in flight for each peer, and sends one for each that comes back.
    fn run(&mut self, more: u64, duration: Duration) -> Fallible<()> {
        let start = Instant::now();
        for index in 0..self.peers.len() {
            for _ in 0..more {
                self.send(index)?;
            }
        }
        while start.elapsed() < duration {
            self.turn(true, LOST)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize) -> Fallible<()> {
        let peer = &mut self.peers[index];
        let message = &mut self.buffer[..self.payload];
        message[..8].copy_from_slice(&(index as u64).to_be_bytes());
        message[8..16].copy_from_slice(&peer.next.to_be_bytes());
        peer.next += 1;
        peer.in_flight += 1;
        peer.socket.send(message)?;
        Ok(())
    }

    fn turn(&mut self, repeat: bool, wait: Duration) -> Fallible<()> {
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
            loop {
                let peer = &mut self.peers[index];
                match peer.socket.recv(&mut self.buffer) {
                    Ok(len) if len == self.payload => {}
                    Ok(len) => return Err(format!("an answer of {len} bytes").into()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
                let number = |at: usize| {
                    let bytes = self.buffer[at..at + 8].try_into();
                    bytes.map(u64::from_be_bytes)
                };
                if number(0)? != index as u64 {
                    return Err("an answer to another peer".into());
                }
                let number = number(8)?;
                if number < peer.expected {
                    return Err("an answer out of order".into());
                }
                peer.expected = number + 1;
                peer.in_flight = peer.in_flight.saturating_sub(1);
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

    /// Nothing has come for a while: what is missing is lost.
    fn send_lost(&mut self) -> Fallible<()> {
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
