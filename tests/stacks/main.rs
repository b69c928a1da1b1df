//! Whole stacks as applications write them. They contain tower's layers on both sides of
//! `SessionLayer` and third-party layers. Some must compile without type annotations.

mod budget;
mod from_fn;
mod inference;
mod limits;
mod permits;
mod support;
mod third_party;
mod tower_on_connections;
mod tower_on_messages;
