//! OpenAI's legacy completions, for models that chat.

pub mod request_in;
