//! A server in a process of its own, so that its CPU time and memory are its alone.
//!
//! The child is this very program, started again as `serve <kind> <place>`. It prints `listening <address>`, then answers every
//! line on its standard input with the CPU nanoseconds that it has used. When that input ends, however the parent
//! ended, so does the child.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use crate::{affinity, cpu, server::Kind};

/// Where a server's threads may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the kernel puts them.
    Anywhere,
    /// Away from the processors of the parent, which has to keep to some.
    Apart,
}

impl Place {
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
    /// Starts a server of this `kind` at this `place` and waits until it listens.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it listens.
    pub fn start(kind: Kind, place: Place) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", kind.name(), place.name()])
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
            .ok_or_else(|| io::Error::other(format!("{} said {line:?}", kind.name())))?;
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

/// The child's side of [`Server`]: serves until the standard input ends.
///
/// # Errors
///
/// If it cannot listen or keep to its place, or the parent's pipes break.
pub fn serve(kind: Kind, place: Place) -> io::Result<()> {
    if place == Place::Apart {
        affinity::move_away()?;
    }
    let listener = kind.listen()?;
    let address = listener.local_addr()?;
    thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            // A server that ends, ends the process: the parent reads of it at its next question.
            let outcome = kind.run(listener);
            eprintln!("{} ended: {outcome:?}", kind.name());
            std::process::exit(1);
        })?;
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
