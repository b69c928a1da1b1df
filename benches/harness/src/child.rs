//! A server in a child process. So it has separate CPU time and memory.
//!
//! The child is this program or that of a peer. Its arguments are `serve <kind> <placement>`.
//! It must print `listening <address>`. Then it must answer each line on standard input with
//! its CPU time in nanoseconds. It will exit when standard input ends, which also covers a
//! crash of the parent.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
};

use socket2::{Domain, Socket, Type};

use crate::{affinity, cpu};

/// Number of connections that the kernel completes before the server accepts them. The same as
/// getty's default.
pub const BACKLOG: i32 = 1024;

/// Processors on which a server may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Any processors.
    Anywhere,
    /// The processors that the parent does not use. The parent must restrict itself first.
    Apart,
}

impl Placement {
    /// Returns the placement with this name.
    ///
    /// # Errors
    ///
    /// If there is no such placement.
    pub fn from_name(name: &str) -> io::Result<Self> {
        [Self::Anywhere, Self::Apart]
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| io::Error::other(format!("unknown placement {name:?}")))
    }

    /// Moves the calling thread and all threads that it starts to these processors.
    ///
    /// # Errors
    ///
    /// If there are no such processors.
    pub fn apply(self) -> io::Result<()> {
        match self {
            Self::Anywhere => Ok(()),
            Self::Apart => affinity::move_away(),
        }
    }

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Anywhere => "anywhere",
            Self::Apart => "apart",
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    /// Starts the server `kind` of `program` and waits until it listens.
    ///
    /// # Errors
    ///
    /// If the process cannot be started or ends before it listens.
    pub fn start(program: &Path, kind: &str, placement: Placement) -> io::Result<Self> {
        Self::spawn_program(program, &["serve", kind, placement.name()])
    }

    /// Starts this program with arguments that make it a server and waits until it listens.
    ///
    /// # Errors
    ///
    /// If the process cannot be started or ends before it listens.
    pub fn spawn(arguments: &[&str]) -> io::Result<Self> {
        Self::spawn_program(&std::env::current_exe()?, arguments)
    }

    fn spawn_program(program: &Path, arguments: &[&str]) -> io::Result<Self> {
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take().expect("its input is piped");
        let answers = BufReader::new(process.stdout.take().expect("its output is piped"));
        let mut server = Self {
            process,
            requests,
            answers,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let line = server.read_line()?;
        server.address = line
            .strip_prefix("listening ")
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| {
                io::Error::other(format!(
                    "{arguments:?} printed {line:?} instead of an address"
                ))
            })?;
        Ok(server)
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns the CPU time that the server has used, in nanoseconds.
    ///
    /// # Errors
    ///
    /// If the process has ended.
    pub fn cpu(&mut self) -> io::Result<u64> {
        self.requests.write_all(b"cpu\n")?;
        let line = self.read_line()?;
        line.parse()
            .map_err(|_| io::Error::other(format!("not a CPU time: {line:?}")))
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server process has ended"));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may already have exited.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// A function that serves on a listener and must return only if that fails.
pub type Run = fn(TcpListener) -> io::Result<()>;

/// Main function of a program with only these servers.
#[must_use]
pub fn main(kinds: &[(&'static str, Run)]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let known = match &arguments[..] {
        [serve, kind, placement] if serve == "serve" => kinds
            .iter()
            .find(|(name, _)| name == kind)
            .zip(Placement::from_name(placement).ok()),
        _ => None,
    };
    let Some((&(name, run), placement)) = known else {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: serve {} anywhere|apart", names.join("|"));
        return ExitCode::FAILURE;
    };
    match listen(false).and_then(|listener| serve(name, placement, listener, run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `run` on `listener` until standard input ends. This is the child's side of [`Server`].
///
/// # Errors
///
/// If the placement fails or the pipes of the parent break.
pub fn serve(
    name: &'static str,
    placement: Placement,
    listener: TcpListener,
    run: impl FnOnce(TcpListener) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    placement.apply()?;
    let address = listener.local_addr()?;
    thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            // The parent will notice the exit at its next request.
            let outcome = run(listener);
            eprintln!("{name} ended: {outcome:?}");
            std::process::exit(1);
        })?;
    answer_parent(address)
}

/// Prints the address of a server and answers the parent's requests until standard input ends.
///
/// # Errors
///
/// If the pipes of the parent break.
pub fn answer_parent(address: SocketAddr) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "listening {address}")?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(output, "{}", cpu::of_process())?;
        output.flush()?;
    }
    Ok(())
}

/// Listens on a free port of this machine. If `shared` is set, other listeners may use the same
/// port.
///
/// # Errors
///
/// If there is no free port.
pub fn listen(shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
