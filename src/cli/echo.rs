//! The demo's model server: it speaks OpenAI's dialect and says what it hears, at a human pace, with
//! true token counts. It stands behind weir like any other model server.

use crate::dialect::openai::request;
use crate::listen::Conn;
use crate::supervise::sockets;
use crate::tokens::count::{Encoding, count};
use crate::tokens::prompt::{Api, prompt_tokens};
use crate::types::socket::{Address, Socket};
use bytes::Bytes;
use http::header;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// Starts the model server on a free port of the loopback interface.
///
/// # Errors
/// When no port can be had.
pub fn start(pace: Duration) -> std::io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let anywhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    let listener = std::net::TcpListener::from(sockets::open(&Socket::at(anywhere))?);
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name("echo".into())
        .spawn(move || {
            runtime.block_on(async move {
                loop {
                    if let Ok((socket, peer)) = listener.accept().await {
                        let _ = socket.set_nodelay(true);
                        tokio::spawn(connection(Conn::new(socket, peer, None), pace));
                    }
                }
            });
        })?;
    Ok(address)
}

async fn connection(conn: Conn, pace: Duration) {
    let mut stream: pingora::protocols::Stream = Box::new(conn);
    loop {
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive(Some(60));
        if !matches!(session.read_request().await, Ok(true)) {
            return;
        }
        if let Err(error) = answer(&mut session, pace).await {
            tracing::debug!(%error, "a listener of the echo left");
            return;
        }
        match session.finish().await {
            Ok(Some(reused)) => stream = reused.into_parts().0,
            _ => return,
        }
    }
}

async fn answer(session: &mut ServerSession, pace: Duration) -> Result<()> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_request_body().await? {
        body.extend_from_slice(&piece);
    }
    let path = session.req_header().uri.path().to_owned();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    match path.as_str() {
        "/v1/chat/completions" => chat(session, &asked, &body, pace).await,
        "/v1/completions" => {
            let prompt = asked["prompt"].as_str().unwrap_or_default().to_owned();
            let usage = usage(Api::Completions, &body, &prompt);
            let answer = json!({
                "id": "cmpl-echo", "object": "text_completion", "created": now(), "model": "echo",
                "choices": [{"index": 0, "text": prompt, "logprobs": null, "finish_reason": "stop"}],
                "usage": usage,
            });
            whole(session, 200, &answer).await
        }
        "/v1/embeddings" => {
            let inputs = match &asked["input"] {
                Value::Array(texts) => texts.clone(),
                text => vec![text.clone()],
            };
            let data: Vec<Value> = inputs
                .iter()
                .enumerate()
                .map(|(index, input)| {
                    json!({"object": "embedding", "index": index, "embedding": embedding(input)})
                })
                .collect();
            let prompt = prompt_tokens(Api::Embeddings, "text-embedding-3-small", &body);
            let answer = json!({
                "object": "list", "model": "echo", "data": data,
                "usage": {"prompt_tokens": prompt, "total_tokens": prompt},
            });
            whole(session, 200, &answer).await
        }
        _ => {
            let error = json!({"error": {
                "message": "the echo knows chat/completions, completions and embeddings",
                "type": "invalid_request_error", "param": null, "code": "not_found",
            }});
            whole(session, 404, &error).await
        }
    }
}

async fn chat(
    session: &mut ServerSession,
    asked: &Value,
    body: &[u8],
    pace: Duration,
) -> Result<()> {
    let heard = last_said(asked);
    let usage = usage(Api::Chat, body, &heard);
    let wants = request::read(body).unwrap_or_default();
    if !wants.stream {
        let answer = json!({
            "id": "chatcmpl-echo", "object": "chat.completion", "created": now(), "model": "echo",
            "choices": [{
                "index": 0, "logprobs": null, "finish_reason": "stop",
                "message": {"role": "assistant", "content": heard, "refusal": null},
            }],
            "usage": usage,
        });
        return whole(session, 200, &answer).await;
    }
    let mut head = ResponseHeader::build(200, Some(2))?;
    head.insert_header(header::CONTENT_TYPE, "text/event-stream")?;
    head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    session.write_response_header(Box::new(head)).await?;
    let created = now();
    let chunk = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({
            "id": "chatcmpl-echo", "object": "chat.completion.chunk", "created": created,
            "model": "echo", "choices": choices,
        });
        if wants.include_usage {
            chunk["usage"] = usage.cloned().unwrap_or_default();
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let delta = |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let hello = chunk(
        delta(json!({"role": "assistant", "content": ""}), None),
        None,
    );
    session.write_response_body(hello, false).await?;
    for word in heard.split_inclusive(' ') {
        tokio::time::sleep(pace).await;
        let event = chunk(delta(json!({"content": word}), None), None);
        session.write_response_body(event, false).await?;
    }
    let finish = chunk(delta(json!({}), Some("stop")), None);
    session.write_response_body(finish, false).await?;
    if wants.include_usage {
        let last = chunk(json!([]), Some(&usage));
        session.write_response_body(last, false).await?;
    }
    let done = Bytes::from_static(b"data: [DONE]\n\n");
    session.write_response_body(done, true).await
}

async fn whole(session: &mut ServerSession, status: u16, answer: &Value) -> Result<()> {
    let body = Bytes::from(answer.to_string());
    let mut head = ResponseHeader::build(status, Some(2))?;
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(body, true).await
}

/// What the user said last, or an invitation.
fn last_said(asked: &Value) -> String {
    let messages = asked["messages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let user = messages
        .iter()
        .rev()
        .find(|message| message["role"] == "user");
    let text = match user.map(|message| &message["content"]) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect();
            texts.join(" ")
        }
        _ => String::new(),
    };
    if text.is_empty() {
        "Say something, and I say it back.".into()
    } else {
        text
    }
}

fn usage(api: Api, body: &[u8], said: &str) -> Value {
    let prompt = prompt_tokens(api, "gpt-4o", body);
    let completion = count(Encoding::O200k, said);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    })
}

/// A unit vector that depends on the text alone.
fn embedding(input: &Value) -> Vec<f64> {
    const DIMENSIONS: usize = 8;
    let mut vector = [1.0; DIMENSIONS];
    for (at, byte) in input.to_string().bytes().enumerate() {
        vector[at % DIMENSIONS] += f64::from(byte) / 255.0;
    }
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}
