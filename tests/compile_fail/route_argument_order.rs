//! The message is not the first argument.

use getty::{Keyed, Router, Session};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

async fn say(session: Session<String>, command: Command) -> String {
    format!("{session}: {}", command.name)
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
