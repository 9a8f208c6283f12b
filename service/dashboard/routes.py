"""The addresses of the dashboard."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from service.dashboard import actions, bulk, home, job, listing, live, signing, system, theme, webhooks
from service.dashboard.access import HOME, signed_in
from service.dashboard.files import show_file
from service.dashboard.pages import as_page
from service.errors import NotFound


async def go_home(_: Request) -> Response:
    """For who opens the service's own address in a browser."""
    return RedirectResponse(HOME, 303)


async def show_nothing(request: Request) -> Response:
    await signed_in(request)
    raise NotFound("There is no such page.")


routes = [
    Route("/", go_home),
    Route("/dashboard", as_page(home.show_home)),
    Route("/dashboard/jobs", as_page(listing.show_jobs)),
    Route("/dashboard/find", as_page(listing.find_job)),
    Route("/dashboard/jobs/{request_id}", as_page(job.show_job)),
    Route("/dashboard/jobs/{request_id}/picture", job.show_picture),
    Route("/dashboard/jobs/{request_id}/do/{action}", as_page(actions.do_something), methods=["POST"]),
    Route("/dashboard/jobs/{request_id}/evidence/{report_id:int}", as_page(webhooks.show_report)),
    Route("/dashboard/jobs/{request_id}/evidence/{report_id:int}/bytes", as_page(webhooks.download_report)),
    Route(
        "/dashboard/jobs/{request_id}/evidence/{report_id:int}/apply", as_page(actions.apply_report), methods=["POST"]
    ),
    Route("/dashboard/webhooks/in", as_page(webhooks.show_heard)),
    Route("/dashboard/webhooks/out", as_page(webhooks.show_told)),
    Route("/dashboard/webhooks/out/redeliver", as_page(webhooks.redeliver), methods=["POST"]),
    Route("/dashboard/bulk", as_page(bulk.show_actions)),
    Route("/dashboard/bulk", as_page(bulk.begin), methods=["POST"]),
    Route("/dashboard/bulk/new", as_page(bulk.show_new)),
    Route("/dashboard/bulk/{bulk_id}", as_page(bulk.show_action)),
    Route("/dashboard/bulk/{bulk_id}/abort", as_page(bulk.abort), methods=["POST"]),
    Route("/dashboard/system", as_page(system.show_system)),
    Route("/dashboard/live", live.stream_changes),
    Route("/dashboard/theme", as_page(theme.choose_theme), methods=["POST"]),
    Route("/dashboard/sign-in", signing.show_sign_in),
    Route("/dashboard/sign-in", as_page(signing.sign_in), methods=["POST"]),
    Route("/dashboard/sign-out", as_page(signing.sign_out), methods=["POST"]),
    Route("/dashboard/static/{edition}/{name:path}", show_file),
    Route("/dashboard/{rest:path}", as_page(show_nothing)),
]
