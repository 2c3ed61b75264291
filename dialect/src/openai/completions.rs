//! OpenAI's legacy completions, for models that chat.

pub mod answer_out;
pub mod request_in;
#[cfg(test)]
mod tests;
