//! The messages of `proto/llm_service.proto`, as they lie on the wire. What they mean stands there.

/// The service's methods.
pub const CHAT_STREAM: &str = "/llm.LLMService/ChatStream";
pub const EMBED: &str = "/llm.LLMService/Embed";

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChatRequest {
    #[prost(string, tag = "1")]
    pub model: String,
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<Message>,
    #[prost(message, repeated, tag = "3")]
    pub tools: Vec<Tool>,
    #[prost(message, optional, tag = "4")]
    pub tool_choice: Option<ToolChoice>,
    #[prost(bool, optional, tag = "5")]
    pub parallel_tool_calls: Option<bool>,
    #[prost(message, optional, tag = "6")]
    pub response_format: Option<ResponseFormat>,
    #[prost(string, optional, tag = "7")]
    pub reasoning_effort: Option<String>,
    #[prost(uint64, optional, tag = "8")]
    pub reasoning_tokens: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub max_tokens: Option<u64>,
    #[prost(double, optional, tag = "10")]
    pub temperature: Option<f64>,
    #[prost(double, optional, tag = "11")]
    pub top_p: Option<f64>,
    #[prost(uint64, optional, tag = "12")]
    pub top_k: Option<u64>,
    #[prost(double, optional, tag = "13")]
    pub frequency_penalty: Option<f64>,
    #[prost(double, optional, tag = "14")]
    pub presence_penalty: Option<f64>,
    #[prost(int64, optional, tag = "15")]
    pub seed: Option<i64>,
    #[prost(string, repeated, tag = "16")]
    pub stop: Vec<String>,
    #[prost(uint32, optional, tag = "17")]
    pub n: Option<u32>,
    #[prost(uint32, optional, tag = "18")]
    pub top_logprobs: Option<u32>,
    #[prost(string, optional, tag = "19")]
    pub user: Option<String>,
    #[prost(bool, optional, tag = "20")]
    pub include_reasoning: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    Unspecified = 0,
    System = 1,
    User = 2,
    Assistant = 3,
    Tool = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    #[prost(enumeration = "Role", tag = "1")]
    pub role: i32,
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<Part>,
    #[prost(message, repeated, tag = "3")]
    pub tool_calls: Vec<ToolCall>,
    #[prost(string, tag = "4")]
    pub tool_call_id: String,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(message, repeated, tag = "6")]
    pub thoughts: Vec<Thought>,
    #[prost(bool, tag = "7")]
    pub is_error: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Thought {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(string, tag = "2")]
    pub signature: String,
    #[prost(string, tag = "3")]
    pub redacted: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Part {
    #[prost(oneof = "Content", tags = "1, 2, 3, 4, 5")]
    pub part: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Content {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(message, tag = "2")]
    Image(Blob),
    #[prost(message, tag = "3")]
    Audio(Blob),
    #[prost(message, tag = "4")]
    Video(Blob),
    #[prost(message, tag = "5")]
    Document(Blob),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(oneof = "Source", tags = "1, 2")]
    pub source: Option<Source>,
    #[prost(string, tag = "3")]
    pub media_type: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, tag = "5")]
    pub detail: String,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Source {
    #[prost(bytes = "vec", tag = "1")]
    Data(Vec<u8>),
    #[prost(string, tag = "2")]
    Url(String),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Tool {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(string, tag = "3")]
    pub parameters: String,
    #[prost(bool, optional, tag = "4")]
    pub strict: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ToolCall {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub arguments: String,
    #[prost(string, tag = "4")]
    pub signature: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ToolChoice {
    #[prost(enumeration = "Mode", tag = "1")]
    pub mode: i32,
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    Auto = 0,
    None = 1,
    Required = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ResponseFormat {
    #[prost(enumeration = "FormatType", tag = "1")]
    pub r#type: i32,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub description: String,
    #[prost(string, tag = "4")]
    pub schema: String,
    #[prost(bool, optional, tag = "5")]
    pub strict: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FormatType {
    Text = 0,
    Json = 1,
    JsonSchema = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChatChunk {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub model: String,
    #[prost(uint64, tag = "3")]
    pub created: u64,
    #[prost(message, repeated, tag = "4")]
    pub choices: Vec<ChoiceDelta>,
    #[prost(message, optional, tag = "5")]
    pub usage: Option<Usage>,
    #[prost(message, optional, tag = "6")]
    pub error: Option<Error>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ChoiceDelta {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(string, tag = "2")]
    pub content: String,
    #[prost(string, tag = "3")]
    pub reasoning: String,
    #[prost(string, tag = "4")]
    pub reasoning_signature: String,
    #[prost(string, tag = "5")]
    pub refusal: String,
    #[prost(message, repeated, tag = "6")]
    pub tool_calls: Vec<ToolCallDelta>,
    #[prost(enumeration = "FinishReason", tag = "7")]
    pub finish_reason: i32,
    #[prost(message, repeated, tag = "8")]
    pub logprobs: Vec<TokenLogprob>,
    #[prost(string, tag = "9")]
    pub redacted_reasoning: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ToolCallDelta {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(string, tag = "2")]
    pub id: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub arguments: String,
    #[prost(string, tag = "5")]
    pub signature: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FinishReason {
    Unspecified = 0,
    Stop = 1,
    Length = 2,
    ToolCalls = 3,
    ContentFilter = 4,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenLogprob {
    #[prost(string, tag = "1")]
    pub token: String,
    #[prost(double, tag = "2")]
    pub logprob: f64,
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub top: Vec<TokenLogprob>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Usage {
    #[prost(uint64, tag = "1")]
    pub input_tokens: u64,
    #[prost(uint64, tag = "2")]
    pub output_tokens: u64,
    #[prost(uint64, optional, tag = "3")]
    pub cached_tokens: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub reasoning_tokens: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Error {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EmbedRequest {
    #[prost(string, tag = "1")]
    pub model: String,
    #[prost(string, repeated, tag = "2")]
    pub inputs: Vec<String>,
    #[prost(uint32, optional, tag = "3")]
    pub dimensions: Option<u32>,
    #[prost(string, optional, tag = "4")]
    pub user: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub purpose: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EmbedResponse {
    #[prost(string, tag = "1")]
    pub model: String,
    #[prost(message, repeated, tag = "2")]
    pub embeddings: Vec<Embedding>,
    #[prost(message, optional, tag = "3")]
    pub usage: Option<Usage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Embedding {
    #[prost(float, repeated, tag = "1")]
    pub values: Vec<f32>,
}

/// Of the standard service for health, `grpc.health.v1.Health`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}
