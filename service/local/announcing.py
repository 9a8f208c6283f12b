"""What `up` says when it is ready: the addresses, the key, and a request that works as it is printed."""

import json
import shlex
from urllib.parse import urlsplit

import click

from service.local.up import Running

# A red square of 8 by 8 pixels, so that the request needs no network.
PIXELS = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8ISfHgA0wMeAAg1MCANDKARQfGKMRAAAAAElFTkSuQmCC"
LOCAL = {"localhost", "127.0.0.1", "::1"}
EXAMPLE = {
    "model": "fal-ai/llava-next",
    "input": {"image_url": f"data:image/png;base64,{PIXELS}", "prompt": "What is in the picture?"},
}


def announce(service: Running) -> None:
    click.echo(f"Roundtrip runs at {service.url}")
    click.echo(f"  dashboard  {service.url}/dashboard")
    click.echo(f"  OpenAPI    {service.url}/openapi.json")
    if service.sandbox_url:
        click.echo(f"  sandbox    {service.sandbox_url}, a look-alike of fal (set FAL_KEY to use fal itself)")
    else:
        click.echo(f"  provider   {service.fal_url}, which may cost money")
        if urlsplit(service.public_url).hostname in LOCAL:
            click.echo("             it cannot reach this machine: webhooks are made up for by polling, and uploads")
            click.echo("             cannot be read; set ROUNDTRIP_PUBLIC_URL to an address that it can reach")
    click.echo(f"  data       {service.data}")
    if service.first_start:
        click.echo(f"  admin key  {service.admin_key}")
        click.echo(f"             kept in {service.admin_key_file}")
    click.echo(f"\nTry it:\n\n{example_request(service)}\n\nCtrl-C stops it.")


def example_request(service: Running) -> str:
    key = "$ROUNDTRIP_ADMIN_KEY"
    if service.admin_key_file is not None:
        key = f"$(cat {shlex.quote(str(service.admin_key_file))})"
    body = shlex.quote(json.dumps(EXAMPLE, separators=(",", ":")))
    return (
        f"curl -s {service.url}/v1/jobs \\\n"
        f'  -H "Authorization: Key {key}" -H "Content-Type: application/json" \\\n'
        f"  -d {body}"
    )
