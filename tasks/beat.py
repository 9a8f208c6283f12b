"""Beat's application: what is asked by the clock. What is done then it does not import, which halves its memory."""

from service.condition.naming import BEAT_HEADER, as_header
from service.logs import configure_logs
from service.queue import MESSAGE_SECONDS, QUEUE, TaskName, build_celery, publishing
from service.settings import load_settings

configure_logs()
settings = load_settings()
celery_app = build_celery(settings)

TIDY_SECONDS = 600.0

# Without these beat would never again send anything over a connection that it once lost to RabbitMQ.
options = {"queue": QUEUE, "expires": MESSAGE_SECONDS, **publishing(settings.require_broker_url())}
# Who asks: the worker that hears of it writes down that this process is at work.
options["headers"] = {BEAT_HEADER: as_header()}
celery_app.conf.beat_schedule = {
    name.value: {"task": name.value, "schedule": seconds, "options": options}
    for name, seconds in ((TaskName.SWEEP, settings.sweep_seconds), (TaskName.TIDY, TIDY_SECONDS))
}
celery_app.conf.beat_scheduler = "tasks.clock:WatchedScheduler"
celery_app.conf.beat_max_loop_interval = settings.canary_seconds
