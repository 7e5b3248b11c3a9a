"""A server that speaks OpenAI's chat format, in which a tiny model answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CONTEXT = 200  # of a longer conversation, the server reads the last tokens


class ChatServer(ThreadingHTTPServer):
    """POST /v1/chat/completions. `requests`: (Authorization, content) of each.

    `replies`: what is sent instead of the model's answer, as (status, text), to the next requests. `edit`: a function
    of the model's answer that returns the one to send. `barrier`: each request waits until so many have arrived.
    """

    daemon_threads = True

    def __init__(self, path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.model, self.tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        self.requests, self.replies, self.edit, self.barrier = [], [], lambda answer: answer, None
        self.lock = threading.Lock()

    def answer(self, content):
        """The reply to a request: the first token with its alternatives, or p(Yes) / (p(Yes) + p(No)) as JSON."""
        ids = self.tokenizer.apply_chat_template(
            content["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"][:, -CONTEXT:]
        with self.lock, torch.no_grad():
            log_p = self.model(ids).logits[0, -1].double().log_softmax(-1)
        ranked = log_p.argsort(descending=True)[: content.get("top_logprobs", 0)].tolist()
        top = [{"token": self.tokenizer.decode([token]), "logprob": log_p[token].item()} for token in ranked]
        choice = {"message": {"role": "assistant", "content": top[0]["token"] if top else ""}}
        if content.get("logprobs"):
            choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
        if "response_format" in content:
            yes, no = (log_p[self.tokenizer.convert_tokens_to_ids(word)].exp().item() for word in ("Yes", "No"))
            choice["message"]["content"] = json.dumps({"probability": yes / (yes + no)})
        return {"choices": [choice], "usage": {"prompt_tokens": ids.size(1), "completion_tokens": 1}}


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.headers["Authorization"], content))
            scripted = self.server.replies.pop(0) if self.server.replies else None
        if self.server.barrier:
            self.server.barrier.wait(30)
        if scripted:
            status, text = scripted
        elif self.path != "/v1/chat/completions":
            status, text = 404, json.dumps({"error": {"message": f"There is no {self.path}."}})
        else:
            status, text = 200, json.dumps(self.server.edit(self.server.answer(content)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass
