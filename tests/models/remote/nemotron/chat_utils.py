def render(tokenizer, text, pictures, add_generation_prompt):
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=add_generation_prompt, tokenize=False
    )
