//! A small mail server with STARTTLS, which prints what it receives and keeps nothing.
//!
//! ```text
//! cargo run --release --all-features --example smtp -- --addr 127.0.0.1:2525
//! openssl s_client -starttls smtp -connect 127.0.0.1:2525
//! curl --ssl-reqd --insecure smtp://127.0.0.1:2525 \
//!     --mail-from me@example.com --mail-rcpt you@example.com --upload-file letter.txt
//! ```
//!
//! It creates a self-signed certificate, unless `--cert` and `--key` are given. `AUTH PLAIN`
//! needs TLS and accepts the name and password of `--user`. With `--imap ADDRESS` it also
//! listens as the beginning of an IMAP server, which does no more than STARTTLS and LOGOUT.
//! SIGINT and SIGTERM end it: open sessions finish.
//!
//! An attacker on the path can change the plain part of a session. So [`Dialogue::start_tls`]
//! must forget the state from before TLS (RFC 3207, section 4.2).

mod report;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use data_encoding::BASE64;
use getty::{
    BoxError, CodecLayer, Reply, ServiceBuilder, Session, SessionLayer, TransportKind,
    codec::Lines,
    handle,
    handler::{handle_mut, make_service},
    layers::IdleTimeoutLayer,
    net::TcpListener,
    shutdown_signal,
    tls::{Pem, ServerTls, TlsConfig},
    upgrade::StartTlsLayer,
};
use lexopt::prelude::*;
use tokio::time::Duration;

use self::report::Report;

const HELP: &str = "\
Usage: smtp [--addr ADDRESS] [--imap ADDRESS] [--cert FILE --key FILE] [--user NAME:PASSWORD]

  --addr ADDRESS         listen on this TCP address; the default is 127.0.0.1:2525
  --imap ADDRESS         also listen for IMAP clients, which can do STARTTLS and LOGOUT
  --cert FILE            certificate chain, in PEM format
  --key FILE             key of the certificate; the default is a self-signed one for localhost
  --user NAME:PASSWORD   credentials of AUTH PLAIN; the default is demo:demo";

/// Maximum line of a command or of a message, in bytes.
const MAX_LINE: usize = 4096;
/// Maximum message, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Maximum number of recipients of a message.
const MAX_RECIPIENTS: usize = 100;

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("smtp: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smtp: {:?}", Report::from(error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: Options) -> Result<(), BoxError> {
    let tls = options.load()?;
    let user = Arc::new(options.user);
    let listener = TcpListener::bind(&*options.addr).await?;
    println!("listening smtp {}", listener.local_addr()?);
    let smtp = getty::serve(listener, {
        ServiceBuilder::new()
            // in place of `TlsLayer`: the session begins in plain text
            .layer(StartTlsLayer::new(tls.clone()))
            .layer(codec())
            .layer(IdleTimeoutLayer::new(Duration::from_secs(300)))
            .layer(SessionLayer::per_session())
            .service(make_service(move |session: Session<String>| {
                // The queue of a new session has room.
                let _ = session.try_send("220 localhost ESMTP getty".to_owned());
                let dialogue = Dialogue::new(session, Arc::clone(&user));
                handle_mut(dialogue, Dialogue::receive)
            }))
    })
    .with_graceful_shutdown(shutdown_signal());
    let Some(address) = options.imap else {
        smtp.await?;
        return Ok(());
    };
    let listener = TcpListener::bind(&*address).await?;
    println!("listening imap {}", listener.local_addr()?);
    let imap = getty::serve(listener, {
        ServiceBuilder::new()
            .layer(StartTlsLayer::new(tls))
            .layer(codec())
            .layer(IdleTimeoutLayer::new(Duration::from_secs(300)))
            .layer(SessionLayer::per_session())
            .service(make_service(|session: Session<String>| {
                let _ = session.try_send("* OK getty is ready".to_owned());
                handle(move |line: String| imap(&session, &line))
            }))
    })
    .with_graceful_shutdown(shutdown_signal());
    tokio::try_join!(smtp, imap)?;
    Ok(())
}

fn codec() -> CodecLayer<Lines, String> {
    CodecLayer::new(Lines::new().with_crlf().with_max_length(MAX_LINE))
}

fn is_secure(session: &Session<String>) -> bool {
    session.transport() == TransportKind::Tls
}

/// State of one session.
struct Dialogue {
    session: Session<String>,
    user: Arc<String>,
    greeted: bool,
    is_authenticated: bool,
    sender: Option<String>,
    recipients: Vec<String>,
    /// Length of the message that is received, in bytes.
    message: Option<usize>,
}

impl Dialogue {
    const fn new(session: Session<String>, user: Arc<String>) -> Self {
        Self {
            session,
            user,
            greeted: false,
            is_authenticated: false,
            sender: None,
            recipients: Vec::new(),
            message: None,
        }
    }

    /// Handles one line.
    #[expect(clippy::needless_pass_by_value, reason = "a handler owns its message")]
    fn receive(&mut self, line: String) -> Reply<String> {
        if self.message.is_some() {
            return self.receive_text(&line);
        }
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let argument = argument.trim();
        let reply = match &*command.to_ascii_uppercase() {
            "EHLO" => return self.greet(),
            "STARTTLS" => return self.start_tls(),
            "QUIT" => return Reply::one("221 goodbye".to_owned()).and_close(),
            "HELO" => {
                self.greeted = true;
                "250 localhost"
            }
            "NOOP" => "250 ok",
            "RSET" => {
                self.reset();
                "250 ok"
            }
            _ if !self.greeted => "503 EHLO first",
            "AUTH" => self.authenticate(argument),
            "MAIL" => self.mail(argument),
            "RCPT" => self.rcpt(argument),
            "DATA" if self.recipients.is_empty() => "503 RCPT first",
            "DATA" => {
                self.message = Some(0);
                "354 end with a dot"
            }
            _ => "502 not known here",
        };
        Reply::one(reply.to_owned())
    }

    fn greet(&mut self) -> Reply<String> {
        self.greeted = true;
        self.reset();
        // AUTH is not offered in plain text.
        let last = if is_secure(&self.session) {
            "250 AUTH PLAIN"
        } else {
            "250 STARTTLS"
        };
        let size = format!("250-SIZE {MAX_MESSAGE}");
        Reply::many(vec!["250-localhost".to_owned(), size, last.to_owned()])
    }

    /// Drops the state of the dialogue and upgrades to TLS.
    fn start_tls(&mut self) -> Reply<String> {
        if is_secure(&self.session) {
            return Reply::one("503 TLS is active".to_owned());
        }
        *self = Self::new(self.session.clone(), Arc::clone(&self.user));
        Reply::one("220 ready for TLS".to_owned()).and_upgrade()
    }

    fn authenticate(&mut self, argument: &str) -> &'static str {
        if !is_secure(&self.session) {
            return "530 5.7.0 STARTTLS first";
        }
        let Some(response) = argument.strip_prefix("PLAIN ") else {
            return "504 AUTH PLAIN with an initial response is supported";
        };
        // an identity, which may be empty, a name and a password
        let given = BASE64.decode(response.as_bytes()).unwrap_or_default();
        let given = String::from_utf8(given).unwrap_or_default();
        let given = given.split_once('\0').map(|(_, rest)| rest);
        if given == Some(&self.user.replacen(':', "\0", 1)) {
            self.is_authenticated = true;
            "235 welcome"
        } else {
            "535 wrong name or password"
        }
    }

    fn mail(&mut self, argument: &str) -> &'static str {
        let Some(sender) = path(argument, "FROM:") else {
            return "501 MAIL FROM:<address>";
        };
        self.reset();
        self.sender = Some(sender);
        "250 ok"
    }

    fn rcpt(&mut self, argument: &str) -> &'static str {
        if self.sender.is_none() {
            return "503 MAIL first";
        }
        if self.recipients.len() == MAX_RECIPIENTS {
            return "452 too many recipients";
        }
        let Some(recipient) = path(argument, "TO:") else {
            return "501 RCPT TO:<address>";
        };
        self.recipients.push(recipient);
        "250 ok"
    }

    /// Handles a line of a message.
    fn receive_text(&mut self, line: &str) -> Reply<String> {
        let length = self.message.unwrap_or(0);
        if line != "." {
            // A line that begins with a dot was sent with a second one.
            let text = line.strip_prefix('.').unwrap_or(line);
            self.message = Some(length + text.len() + 2);
            return Reply::none();
        }
        let reply = if length > MAX_MESSAGE {
            "552 the message is too long".to_owned()
        } else {
            let kind = self.session.transport();
            let to = self.recipients.join(" ");
            let from = self.sender.as_deref().unwrap_or_default();
            let name = if self.is_authenticated {
                " as user"
            } else {
                ""
            };
            println!("message over {kind}{name} from {from} to {to}: {length} bytes");
            "250 accepted".to_owned()
        };
        self.reset();
        Reply::one(reply)
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.message = None;
    }
}

/// Returns the address in `FROM:<address> OPTIONS`.
fn path(argument: &str, keyword: &str) -> Option<String> {
    let (name, rest) = argument.split_at_checked(keyword.len())?;
    let rest = rest.trim_start().strip_prefix('<')?;
    let (address, _) = rest.split_once('>')?;
    // The address is printed, so it must not contain control characters.
    let is_clean = address.bytes().all(|byte| byte.is_ascii_graphic());
    (name.eq_ignore_ascii_case(keyword) && is_clean).then(|| address.to_owned())
}

/// Handles one line of an IMAP client.
fn imap(session: &Session<String>, line: &str) -> Reply<String> {
    let (tag, command) = line.split_once(' ').unwrap_or((line, ""));
    let ok = format!("{tag} OK done");
    match &*command.trim().to_ascii_uppercase() {
        "CAPABILITY" => {
            let tls = if is_secure(session) { "" } else { " STARTTLS" };
            let known = format!("* CAPABILITY IMAP4rev1{tls} LOGINDISABLED");
            Reply::many(vec![known, ok])
        }
        "STARTTLS" if !is_secure(session) => {
            Reply::one(format!("{tag} OK begin TLS")).and_upgrade()
        }
        "LOGOUT" => Reply::many(vec!["* BYE".to_owned(), ok]).and_close(),
        "NOOP" => Reply::one(ok),
        _ => Reply::one(format!("{tag} BAD not known here")),
    }
}

struct Options {
    addr: String,
    imap: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: String,
}

impl Options {
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            addr: "127.0.0.1:2525".to_owned(),
            imap: None,
            cert: None,
            key: None,
            user: "demo:demo".to_owned(),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("addr") => options.addr = arguments.value()?.string()?,
                Long("imap") => options.imap = Some(arguments.value()?.string()?),
                Long("cert") => options.cert = Some(arguments.value()?.into()),
                Long("key") => options.key = Some(arguments.value()?.into()),
                Long("user") => options.user = arguments.value()?.string()?,
                Short('h') | Long("help") => return Ok(None),
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(options))
    }

    fn load(&self) -> Result<TlsConfig, BoxError> {
        let settings = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => ServerTls::new(cert, key),
            (None, None) => {
                let names = ["localhost", "127.0.0.1"].map(str::to_owned);
                let made = rcgen::generate_simple_self_signed(names)?;
                let key = Pem::inline(made.signing_key.serialize_pem());
                ServerTls::new(Pem::inline(made.cert.pem()), key)
            }
            _ => return Err("--cert and --key must be used together".into()),
        };
        Ok(settings.load()?)
    }
}
