//! Child processes. Each is this program, started again with one test.
//!
//! Each wait for a child has a deadline. A failure prints the child's output.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Time in which a child prints a line that it is to print.
const MINUTE: Duration = Duration::from_secs(60);

/// A child process that is killed at the end.
pub(crate) struct Process {
    child: Child,
    /// Lines of its output that were not looked at yet.
    lines: mpsc::Receiver<String>,
    /// Everything that it has printed to its output and its errors.
    printed: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// Reads `pipe` to its end on a new thread, because a child that fills a pipe would stop.
fn read(
    pipe: impl Read + Send + 'static,
    mut each: impl FnMut(String) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe
            .read_until(b'\n', &mut line)
            .is_ok_and(|bytes| bytes > 0)
        {
            each(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}

impl Process {
    /// Starts the test `name` of this program.
    pub(crate) fn start(name: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", name, "--nocapture", "--include-ignored"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let printed = Arc::<Mutex<String>>::default();
        let print = |line: &str, printed: &Mutex<String>| {
            let mut printed = printed.lock().unwrap();
            printed.push_str(line);
            printed.push('\n');
        };
        let (sender, lines) = mpsc::channel();
        let output = Arc::clone(&printed);
        let mut readers = vec![read(child.stdout.take().unwrap(), move |line| {
            print(&line, &output);
            // The test may have seen enough.
            let _ = sender.send(line);
        })];
        if let Some(errors) = child.stderr.take() {
            let output = Arc::clone(&printed);
            readers.push(read(errors, move |line| print(&line, &output)));
        }
        Self {
            child,
            lines,
            printed,
            readers,
        }
    }

    /// Returns everything that the child has printed.
    pub(crate) fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    /// Returns the rest of the next line that contains `what`. It must come within a minute.
    #[track_caller]
    pub(crate) fn line(&mut self, what: &str) -> String {
        let deadline = Instant::now() + MINUTE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(what) {
                        return rest.to_owned();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!(
                        "the child did not print `{what}` within {MINUTE:?}:\n{}",
                        self.printed()
                    );
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    panic!(
                        "the child ended and never printed `{what}`:\n{}",
                        self.printed()
                    );
                }
            }
        }
    }

    /// Waits for the end of the child, which must come within `time`.
    #[track_caller]
    pub(crate) fn ended(&mut self, time: Duration) -> ExitStatus {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("the child did not end within {time:?}:\n{}", self.printed());
                }
                // Its output is at its end, so the process is too.
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Asserts that the child still runs.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert!(
            status.is_none(),
            "the child ended: {status:?}\n{}",
            self.printed()
        );
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Stops the process, and returns once it has stopped.
    pub(crate) fn stop(&self) {
        kill_process(self.id(), Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.id()), WaitOptions::UNTRACED)
            .unwrap()
            .unwrap();
        assert!(status.stopped(), "{status:?}\n{}", self.printed());
    }

    /// Continues a stopped process.
    pub(crate) fn go_on(&self) {
        kill_process(self.id(), Signal::CONT).unwrap();
    }

    /// Kills the process, and returns once the kernel has closed its sockets.
    pub(crate) fn kill(&mut self) {
        use std::os::unix::process::ExitStatusExt;

        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{}", self.printed());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
