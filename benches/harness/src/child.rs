//! A server in a process of its own, so that its CPU time and memory are its alone.
//!
//! The child is this very program or a peer's (see `peers`), started as `serve <kind> <place>`. It prints
//! `listening <address>`, then answers every line on its standard input with the CPU nanoseconds that it has used. When
//! that input ends, however the parent ended, so does the child.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
};

use socket2::{Domain, Socket, Type};

use crate::{affinity, cpu};

/// How many connections the kernel completes before the server accepts them; getty's default too.
pub const BACKLOG: i32 = 1024;

/// Where a server's threads may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the kernel puts them.
    Anywhere,
    /// Away from the processors of the parent, which has to keep to some.
    Apart,
}

impl Place {
    /// The place of that name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn from_name(name: &str) -> io::Result<Self> {
        [Self::Anywhere, Self::Apart]
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| io::Error::other(format!("there is no place {name:?}")))
    }

    /// Takes the calling thread there, and what it starts from now on.
    ///
    /// # Errors
    ///
    /// If there is no such place.
    pub fn take(self) -> io::Result<()> {
        match self {
            Self::Anywhere => Ok(()),
            Self::Apart => affinity::move_away(),
        }
    }

    /// Its name on the command line.
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
    /// Starts the server that `program` knows as `kind` at this `place`, and waits until it listens.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it listens.
    pub fn start(program: &Path, kind: &str, place: Place) -> io::Result<Self> {
        Self::spawn_program(program, &["serve", kind, place.name()])
    }

    /// Starts this program again with these arguments, which make it a server, and waits until it listens.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it listens.
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
        let line = server.answer()?;
        server.address = line
            .strip_prefix("listening ")
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| io::Error::other(format!("{arguments:?} said {line:?}")))?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The CPU nanoseconds that it has used so far.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn cpu(&mut self) -> io::Result<u64> {
        self.requests.write_all(b"cpu\n")?;
        let line = self.answer()?;
        line.parse()
            .map_err(|_| io::Error::other(format!("no CPU time: {line:?}")))
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server has ended"));
        }
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

/// What serves on a listener, and only returns when that fails.
pub type Run = fn(TcpListener) -> io::Result<()>;

/// The whole of a program that serves and does nothing else: it knows these kinds of server.
#[must_use]
pub fn main(kinds: &[(&'static str, Run)]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let known = match &arguments[..] {
        [serve, kind, place] if serve == "serve" => kinds
            .iter()
            .find(|(name, _)| name == kind)
            .zip(Place::from_name(place).ok()),
        _ => None,
    };
    let Some((&(name, run), place)) = known else {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: serve {} anywhere|apart", names.join("|"));
        return ExitCode::FAILURE;
    };
    match listen(false).and_then(|listener| serve(name, place, listener, run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The child's side of [`Server`]: has `run` serve on `listener` until the standard input ends.
///
/// # Errors
///
/// If it cannot keep to its place, or the parent's pipes break.
pub fn serve(
    name: &'static str,
    place: Place,
    listener: TcpListener,
    run: impl FnOnce(TcpListener) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    place.take()?;
    let address = listener.local_addr()?;
    thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            // A server that ends, ends the process: the parent reads of it at its next question.
            let outcome = run(listener);
            eprintln!("{name} ended: {outcome:?}");
            std::process::exit(1);
        })?;
    answer(address)
}

/// Says where a server listens, and answers the parent until it has no more questions.
///
/// # Errors
///
/// If the parent's pipes break.
pub fn answer(address: SocketAddr) -> io::Result<()> {
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

/// Listens on a port of this machine that the system chooses, and which other listeners may share.
///
/// # Errors
///
/// If there is none.
pub fn listen(shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
