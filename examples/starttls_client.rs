//! A client of a mail server that upgrades to TLS, prints the parameters of TLS and the
//! server's extensions, and ends.
//!
//! ```text
//! cargo run --release --all-features --example smtp -- --cert cert.pem --key key.pem
//! cargo run --release --all-features --example starttls_client -- localhost:2525 cert.pem
//! ```
//!
//! The second argument is a file with the roots to trust; the default is the system's. The
//! client ends with status 1 if the server does not offer TLS or the handshake fails. It never
//! continues in plain text, because an attacker on the path can remove the offer.

mod report;

use getty::{
    BoxError, CodecLayer, Reply, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    handler::{handle_mut, make_service},
    net::TcpConnector,
    tls::{ClientTls, TlsInfo},
    upgrade::StartTlsConnectLayer,
};
use tokio::sync::mpsc;

use self::report::Report;

/// Kind of the server's next reply.
enum Step {
    Greeting,
    Hello {
        offers_tls: bool,
    },
    StartTls,
    /// The session is secure: replies go to the main task.
    Secure,
}

struct Client {
    step: Step,
    replies: mpsc::UnboundedSender<String>,
}

impl Client {
    fn receive(&mut self, line: String) -> Result<Reply<String>, BoxError> {
        // `250-` begins a line that is not the last one of a reply.
        let is_last = line.as_bytes().get(3) != Some(&b'-');
        let (code, text) = line.split_at_checked(3).ok_or("not a reply")?;
        match &mut self.step {
            Step::Secure => {
                let _ = self.replies.send(line);
            }
            Step::Hello { offers_tls } if code == "250" => {
                // A reply may have no text.
                let extension = text.get(1..).unwrap_or_default();
                *offers_tls |= extension.eq_ignore_ascii_case("STARTTLS");
                if is_last && !*offers_tls {
                    return Err("the server does not offer TLS".into());
                }
                if is_last {
                    self.step = Step::StartTls;
                    return Ok(Reply::one("STARTTLS".to_owned()));
                }
            }
            Step::Greeting if code == "220" => {
                if is_last {
                    self.step = Step::Hello { offers_tls: false };
                    return Ok(Reply::one("EHLO localhost".to_owned()));
                }
            }
            Step::StartTls if code == "220" => {
                self.step = Step::Secure;
                return Ok(Reply::none().and_upgrade());
            }
            _ => return Err(format!("the server refuses: {line}").into()),
        }
        Ok(Reply::none())
    }
}

#[tokio::main]
async fn main() -> Result<(), Report> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .ok_or("usage: starttls_client ADDRESS [ROOTS]")?;
    let mut tls = ClientTls::new();
    if let Some(roots) = arguments.next() {
        tls = tls.with_roots(roots);
    }
    let connector = ServiceBuilder::new()
        .layer(StartTlsConnectLayer::new(tls.load()?))
        .service(TcpConnector::new());
    let (sender, mut replies) = mpsc::unbounded_channel();
    let (session, _task) = getty::connect(connector, address, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new().with_crlf()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service(make_service(move |_: Session<String>| {
                let client = Client {
                    step: Step::Greeting,
                    replies: sender.clone(),
                };
                handle_mut(client, Client::receive)
            }))
    })
    .await?;

    // Nothing may be sent before TLS protects it.
    if !session.upgraded().await {
        return Err(session.closed().await.to_string().into());
    }
    let tls: TlsInfo = session.get().ok_or("no TLS")?;
    println!("secure with {:?}", tls.version());
    session.send("EHLO localhost".to_owned()).await?;
    while let Some(reply) = replies.recv().await {
        println!("{reply}");
        if reply.starts_with("250 ") {
            session.send("QUIT".to_owned()).await?;
        }
    }
    Ok(())
}
