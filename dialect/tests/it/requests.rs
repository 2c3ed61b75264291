//! What an upstream is asked must mean what the client asked: where each API has what.

use serde_json::Value;
use weir_dialect::translate::Translated;

use crate::golden::Upstream;

/// Checks a request that goes out.
pub fn check(feature: &str, upstream: &Upstream, translated: &Translated) {
    let stem = feature.trim_end_matches("_stream");
    let text = String::from_utf8_lossy(&translated.body);
    let needed: &[&str] = match stem {
        "text" | "stream" | "error" => &["Say hello."],
        "system" => &["Be brief.", "Say hello."],
        "tools" | "parallel_tools" => &["get_weather", "city"],
        "tool_result" => &["get_weather", "Paris", "18 degrees"],
        "image" if upstream.name == "grpc" => &["What is this?", "PNG"],
        "image" => &["What is this?", "iVBORw0KGgo"],
        "schema" => &["age", "integer", "name"],
        "stop" => &["END"],
        _ => &[],
    };
    for needed in needed {
        assert!(text.contains(needed), "{needed} in {text}");
    }
    let Ok(body) = serde_json::from_slice::<Value>(&translated.body) else {
        assert_eq!(upstream.name, "grpc", "JSON: {text}");
        return;
    };
    for (pointer, wanted) in places(upstream.name, stem) {
        let said = body.pointer(pointer).unwrap_or(&Value::Null);
        let is = match wanted {
            Is::Text(text) => said == text,
            Is::Has(text) => said.to_string().contains(text),
            Is::SameAs(other) => !said.is_null() && Some(said) == body.pointer(other),
        };
        assert!(is, "{pointer} is {said}, not {wanted:?}, in {body:#}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Is {
    Text(&'static str),
    /// Somewhere in it.
    Has(&'static str),
    /// What stands at another place.
    SameAs(&'static str),
}

/// Where each API has what, by its reference.
fn places(upstream: &str, stem: &str) -> &'static [(&'static str, Is)] {
    use Is::{Has, SameAs, Text};
    match (upstream, stem) {
        ("openai" | "azure" | "ollama" | "cohere", "system") => &[
            ("/messages/0/content", Has("Be brief.")),
            ("/messages/1/role", Text("user")),
            ("/messages/1/content", Has("Say hello.")),
        ],
        ("anthropic", "system") => &[
            ("/system", Has("Be brief.")),
            ("/messages/0/role", Text("user")),
        ],
        ("bedrock", "system") => &[
            ("/system/0/text", Text("Be brief.")),
            ("/messages/0/content/0/text", Text("Say hello.")),
        ],
        ("gemini", "system") => &[
            ("/systemInstruction/parts/0/text", Text("Be brief.")),
            ("/contents/0/role", Text("user")),
            ("/contents/0/parts/0/text", Text("Say hello.")),
        ],
        ("dashscope", "system") => &[
            ("/input/messages/0/role", Text("system")),
            ("/input/messages/0/content", Has("Be brief.")),
            ("/input/messages/1/content", Has("Say hello.")),
        ],
        ("openai" | "azure" | "ollama" | "cohere", "tools" | "parallel_tools") => &[
            ("/tools/0/type", Text("function")),
            ("/tools/0/function/name", Text("get_weather")),
            (
                "/tools/0/function/parameters/properties/city/type",
                Text("string"),
            ),
        ],
        ("dashscope", "tools" | "parallel_tools") => &[
            ("/parameters/tools/0/function/name", Text("get_weather")),
            (
                "/parameters/tools/0/function/parameters/properties/city/type",
                Text("string"),
            ),
        ],
        ("anthropic", "tools" | "parallel_tools") => &[
            ("/tools/0/name", Text("get_weather")),
            ("/tools/0/input_schema/properties/city/type", Text("string")),
        ],
        ("bedrock", "tools" | "parallel_tools") => &[
            ("/toolConfig/tools/0/toolSpec/name", Text("get_weather")),
            (
                "/toolConfig/tools/0/toolSpec/inputSchema/json/properties/city/type",
                Text("string"),
            ),
        ],
        ("gemini", "tools" | "parallel_tools") => &[
            ("/tools/0/functionDeclarations/0/name", Text("get_weather")),
            ("/tools/0/functionDeclarations/0", Has("\"city\"")),
        ],
        ("openai" | "azure" | "cohere", "tool_result") => &[
            ("/messages/1/role", Text("assistant")),
            (
                "/messages/1/tool_calls/0/function/name",
                Text("get_weather"),
            ),
            ("/messages/2/role", Text("tool")),
            (
                "/messages/2/tool_call_id",
                SameAs("/messages/1/tool_calls/0/id"),
            ),
            ("/messages/2/content", Has("18 degrees")),
        ],
        ("ollama", "tool_result") => &[
            (
                "/messages/1/tool_calls/0/function/name",
                Text("get_weather"),
            ),
            (
                "/messages/1/tool_calls/0/function/arguments/city",
                Text("Paris"),
            ),
            ("/messages/2/role", Text("tool")),
            ("/messages/2/content", Text("18 degrees")),
            ("/messages/2/tool_name", Text("get_weather")),
        ],
        ("dashscope", "tool_result") => &[
            (
                "/input/messages/1/tool_calls/0/function/name",
                Text("get_weather"),
            ),
            ("/input/messages/2/role", Text("tool")),
            (
                "/input/messages/2/tool_call_id",
                SameAs("/input/messages/1/tool_calls/0/id"),
            ),
        ],
        ("anthropic", "tool_result") => &[
            ("/messages/1/content/0/type", Text("tool_use")),
            ("/messages/1/content/0/input/city", Text("Paris")),
            ("/messages/2/role", Text("user")),
            ("/messages/2/content/0/type", Text("tool_result")),
            (
                "/messages/2/content/0/tool_use_id",
                SameAs("/messages/1/content/0/id"),
            ),
            ("/messages/2/content/0/content", Has("18 degrees")),
        ],
        ("bedrock", "tool_result") => &[
            ("/messages/1/content/0/toolUse/input/city", Text("Paris")),
            ("/messages/2/role", Text("user")),
            (
                "/messages/2/content/0/toolResult/toolUseId",
                SameAs("/messages/1/content/0/toolUse/toolUseId"),
            ),
            (
                "/messages/2/content/0/toolResult/content",
                Has("18 degrees"),
            ),
        ],
        ("gemini", "tool_result") => &[
            ("/contents/1/role", Text("model")),
            ("/contents/1/parts/0/functionCall/args/city", Text("Paris")),
            (
                "/contents/2/parts/0/functionResponse/name",
                Text("get_weather"),
            ),
            ("/contents/2/parts/0/functionResponse", Has("18 degrees")),
        ],
        ("openai" | "azure" | "cohere", "image") => &[
            ("/messages/0/content", Has("data:image/png;base64,iVBORw0K")),
            ("/messages/0/content", Has("\"image_url\"")),
        ],
        ("ollama", "image") => &[("/messages/0/images/0", Has("\"iVBORw0K"))],
        ("dashscope", "image") => &[(
            "/input/messages/0/content",
            Has("data:image/png;base64,iVBORw0K"),
        )],
        ("anthropic", "image") => &[
            ("/messages/0/content", Has("\"media_type\":\"image/png\"")),
            ("/messages/0/content", Has("\"data\":\"iVBORw0K")),
        ],
        ("bedrock", "image") => &[
            ("/messages/0/content", Has("\"format\":\"png\"")),
            ("/messages/0/content", Has("\"bytes\":\"iVBORw0K")),
        ],
        ("gemini", "image") => &[
            ("/contents/0/parts", Has("\"mimeType\":\"image/png\"")),
            ("/contents/0/parts", Has("\"data\":\"iVBORw0K")),
        ],
        ("openai" | "azure", "schema") => &[
            ("/response_format/type", Text("json_schema")),
            (
                "/response_format/json_schema/schema/properties/age/type",
                Text("integer"),
            ),
        ],
        ("cohere", "schema") => &[
            ("/response_format/type", Text("json_object")),
            (
                "/response_format/json_schema/properties/age/type",
                Text("integer"),
            ),
        ],
        ("ollama", "schema") => &[("/format/properties/age/type", Text("integer"))],
        ("gemini", "schema") => &[
            (
                "/generationConfig/responseMimeType",
                Text("application/json"),
            ),
            ("/generationConfig", Has("\"age\"")),
        ],
        ("openai" | "azure", "reasoning") => &[("/reasoning_effort", Text("medium"))],
        ("anthropic", "reasoning") => &[("/thinking/type", Text("enabled"))],
        ("gemini", "reasoning") => &[("/generationConfig/thinkingConfig", Has("think"))],
        ("openai" | "azure", "stop") => &[("/stop/0", Text("END"))],
        ("anthropic", "stop") => &[("/stop_sequences/0", Text("END"))],
        ("cohere", "stop") => &[("/stop_sequences/0", Text("END"))],
        ("bedrock", "stop") => &[("/inferenceConfig/stopSequences/0", Text("END"))],
        ("gemini", "stop") => &[("/generationConfig/stopSequences/0", Text("END"))],
        ("ollama", "stop") => &[("/options/stop/0", Text("END"))],
        ("dashscope", "stop") => &[("/parameters/stop", Has("END"))],
        _ => &[],
    }
}
