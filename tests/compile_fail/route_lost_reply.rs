//! A stray semicolon discards the reply of a handler.

use getty::{Keyed, Router};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

fn say(command: Command) {
    command.name.to_ascii_uppercase();
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
