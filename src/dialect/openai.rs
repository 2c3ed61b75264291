//! OpenAI's dialect: chat, completions, embeddings (and what reads alike in responses).
//!
//! - [`request`]: what a client asks for, and the two edits that weir makes to it
//! - [`answer`]: what an answer says, read as it passes in any pieces
//! - [`usage`]: the `usage` object in the spellings of different servers
//! - [`shape`]: the repeating form of a stream's events, so that most needn't be read again

pub mod answer;
pub mod request;
pub mod shape;
pub mod usage;
