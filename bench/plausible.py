"""Plausible jobs as SQL: what a chunk of them is drawn by, and the rows of every table that follow from it.

A chunk is drawn into the temporary table `drawn`, a row a job, in the order of time; all else is derived from there.
Probabilities are skewed as they are in life: few tenants, models, tags and labels have most of the jobs.
"""

from collections.abc import Sequence
from random import Random

from service.jobs.store import MARKS

TENANTS = (("default", 0.7), ("studio", 0.15), ("shop", 0.1), ("lab", 0.04), ("trial", 0.01))
# With the seconds that a run takes, on the average.
MODELS = (
    ("fal-ai/llava-next", 0.34, 2.0),
    ("fal-ai/mini-cpm", 0.22, 1.5),
    ("fal-ai/sa2va/8b/image", 0.2, 4.0),
    ("fal-ai/nemotron-diffusion-vlm", 0.12, 3.0),
    ("fal-ai/flux-vision-upscaler", 0.09, 25.0),
    ("fal-ai/florence-2-large/ocr", 0.02, 1.0),
    ("fal-ai/birefnet", 0.0095, 1.2),
    ("fal-ai/moondream2", 0.0005, 0.8),
)
PROVIDERS = (("fal", 0.92), ("local", 0.08))
STATUSES = (("completed", 0.94), ("failed", 0.05), ("cancelled", 0.01))
ERRORS = (
    ("file_download_error", 0.4),
    ("downstream_service_error", 0.25),
    ("content_policy_violation", 0.15),
    ("generation_timeout", 0.12),
    ("internal_server_error", 0.079),
    ("provider_lost_request", 0.001),
)
LIVE_STATUSES = (("queued", 0.6), ("submitted", 0.25), ("in_progress", 0.15))
COLOURS = ("white", "black", "grey", "red", "blue", "green", "silver", "brown", "yellow", "orange", "striped", "golden")
THINGS = (
    *("car", "person", "truck", "dog", "tree", "bicycle", "cat", "chair", "building", "bus", "sign", "bird", "horse"),
    *("bottle", "lamp", "boat", "backpack", "umbrella", "kite", "zebra", "harp", "anvil", "astrolabe", "theremin"),
)
PLACES = ("in a street", "on a beach", "at night", "in the rain", "beside a river", "in a museum", "under a bridge")
TAGS = ("shop", "nightly", "web", "mobile", "batch", "retry", "beta", "vip", "eu", "us", "audit", "demo")
DAYS = 90

# A campaign, a customer or a number plate for so many jobs of the record: so each has about as many in any record, 50.
RECORD_A_CAMPAIGN, RECORD_A_CUSTOMER, RECORD_A_PLATE = 5_000, 50, 12_500

SA2VA, UPSCALER = MODELS[2][0], MODELS[4][0]


def _array(words: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join(f"'{word}'" for word in words) + "]"


def _one_of(shares: Sequence[tuple[str | float, ...]], draw: str) -> str:
    """The word that a draw from 0 to 1 falls on."""
    ends, end = [], 0.0
    for _, share, *_ in shares[:-1]:
        end += float(share)
        ends.append(f"{end:.6f}")
    words = _array([str(share[0]) for share in shares])
    return f"({words})[1 + width_bucket({draw}, ARRAY[{', '.join(ends)}]::float8[])]"


def _skewed(words: Sequence[str], draw: str, power: float) -> str:
    return f"({_array(words)})[1 + floor({len(words)} * power({draw}, {power}))::int]"


def _part(draw: str, number: int) -> str:
    """Another draw made of one, as good as independent of it."""
    return f"({draw} * {number} - floor({draw} * {number}))"


def _rounded(seconds: str) -> str:
    """To the microsecond, as timestamps are."""
    return f"round(({seconds}) * 1e6) / 1e6"


def _names(record_a_name: int) -> str:
    """How many of them there are."""
    return f"greatest($3::bigint / {record_a_name}, 1)"


def _label(number: int) -> str:
    colour, thing = _part("r_label", 7_919 * number), _part("r_label", 104_729 * number)
    capital = f"CASE WHEN {_part('r_label', 31 * number)} < 0.3 THEN 'A ' ELSE 'a ' END"
    plate = f"floor({_part('r_label', 15_485_863 * number)} * {_names(RECORD_A_PLATE)})::int"
    return f"""CASE WHEN {_part("r_label", 611_953 * number)} < 0.01 THEN 'plate ' || {plate}
        ELSE {capital} || {_skewed(COLOURS, colour, 2)} || ' ' || {_skewed(THINGS, thing, 3)} END"""


_RUN_SECONDS = "CASE model " + " ".join(f"WHEN '{name}' THEN {seconds}" for name, _, seconds in MODELS) + " END"

_LABELS = f"(ARRAY[{', '.join(map(_label, (1, 2, 3, 4)))}])[1:1 + floor(4 * power(r_masks, 1.5))::int]"


def campaign(random: Random, jobs: int) -> str:
    return f"campaign-{random.randrange(max(jobs // RECORD_A_CAMPAIGN, 1))}"


def customer(random: Random, jobs: int) -> str:
    return f"c-{int(max(jobs // RECORD_A_CUSTOMER, 1) * random.random() ** 3)}"


def plate(random: Random, jobs: int) -> str:
    """The label of few masks."""
    return f"plate {random.randrange(max(jobs // RECORD_A_PLATE, 1))}"


# $1 first and $2 last number of the chunk, $3 all jobs, $4 seed, $5 when the last is made, $6 about how many go on
DRAW = f"""
INSERT INTO drawn
SELECT n, (lpad(to_hex(floor(extract(epoch FROM created_at) * 1000)::bigint), 12, '0')
           || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
       (substr(hash, 17) || substr(hash, 1, 16))::uuid::text,
       (SELECT id FROM tenants WHERE name = tenant), model, provider,
       CASE WHEN live THEN {_one_of(LIVE_STATUSES, "r_status")} ELSE {_one_of(STATUSES, "r_status")} END, live,
       CASE WHEN r_attempt < 0.005 AND NOT live THEN 2 ELSE 1 END, created_at,
       {_rounded("0.004 - 0.05 * ln(1 - r_queued)")},
       {_rounded("0.05 + 0.2 * r_submit")},
       {_rounded("0.1 - 1.5 * ln(1 - r_waited)")},
       {_rounded(f"0.2 - {_RUN_SECONDS} * ln(1 - r_run)")},
       {_rounded("0.002 + 0.03 * r_webhook")},
       CASE WHEN model = '{SA2VA}' THEN {_LABELS} ELSE '{{}}' END,
       'a ' || {_skewed(COLOURS, _part("r_label", 17), 2)} || ' ' || {_skewed(THINGS, _part("r_label", 29), 3)}
           || ' ' || {_skewed(PLACES, _part("r_label", 37), 1)},
       {_one_of(ERRORS, "r_error")},
       CASE WHEN r_hook < 0.15 THEN 'https://hooks.example.com/' || tenant END,
       CASE WHEN r_tag < 0.35 THEN '{{}}'
            WHEN r_tag < 0.36 THEN ARRAY['campaign-' || floor(r_error * {_names(RECORD_A_CAMPAIGN)})::int]
            WHEN r_tag < 0.85 THEN ARRAY[{_skewed(TAGS, _part("r_tag", 97), 2)}]
            ELSE ARRAY[{_skewed(TAGS[:6], _part("r_tag", 97), 2)}, {_skewed(TAGS[6:], _part("r_tag", 89), 2)}] END,
       format('{{"customer": "c-%s"%s%s}}', floor({_names(RECORD_A_CUSTOMER)} * power(r_customer, 3))::int,
              CASE WHEN n % 4 = 0 THEN ', "order": ' || n END,
              CASE WHEN n % 5 = 0 THEN ', "rating": ' || floor(r_rating * 10) / 2 END)::jsonb,
       200 + floor(r_tokens * 1200)::int, 10 + floor(-120 * ln(1 - r_submit))::int, hash
FROM (
    -- Some jobs take their time, so those that are under way stand among others.
    SELECT n, n > $3::bigint - 4 * $6::bigint AND random() < 0.25 AS live,
           -- More by day than by night.
           $5::timestamptz - make_interval(secs => {DAYS * 86_400} * (1 - n / $3::float8)
               + 6000 * (1 - cos(2 * pi() * {DAYS} * n / $3::float8)) / 2) AS created_at,
           md5($4::text || '-' || n) AS hash,
           {_one_of(TENANTS, "random()")} AS tenant, {_one_of(MODELS, "random()")} AS model,
           {_one_of(PROVIDERS, "random()")} AS provider, random() AS r_status, random() AS r_attempt,
           random() AS r_queued, random() AS r_submit, random() AS r_waited, random() AS r_run, random() AS r_webhook,
           random() AS r_label, random() AS r_masks, random() AS r_error, random() AS r_hook, random() AS r_tag,
           random() AS r_customer, random() AS r_rating, random() AS r_tokens
    FROM generate_series($1::bigint, $2::bigint) AS n
) AS draw
"""

PREPARE = """
CREATE TEMPORARY TABLE drawn (
    n bigint, job_id uuid, request_id text, tenant_id uuid, model text, provider text, status text, live bool,
    attempt int, created_at timestamptz, queued float8, submit float8, waited float8, run float8, webhook float8,
    labels text[], subject text, error_type text, webhook_url text, tags text[], metadata jsonb,
    prompt_tokens int, completion_tokens int, hash text
);
CREATE TEMPORARY VIEW timed AS
SELECT drawn.*, created_at + make_interval(secs => queued) AS claimed_at,
       created_at + make_interval(secs => queued + submit) AS answered_at,
       created_at + make_interval(secs => queued + submit + waited) AS started_at,
       created_at + make_interval(secs => queued + submit + waited + run) AS received_at,
       created_at + make_interval(secs => queued + submit + waited + run + webhook) AS completed_at
FROM drawn;
"""

# What the provider gave, as text.
_USAGE = f"""CASE WHEN status <> 'completed' OR model IN ('{SA2VA}', '{UPSCALER}') THEN '{{}}'
    ELSE format('{{"prompt_tokens": %s, "completion_tokens": %s}}', prompt_tokens, completion_tokens) END"""
_TIMINGS = f"""CASE WHEN status = 'completed' AND model IN ('{SA2VA}', '{UPSCALER}')
    THEN format('{{"inference": %s}}', round((run * 0.95)::numeric, 4)) ELSE '{{}}' END"""
_SEED = f"CASE WHEN status = 'completed' AND model = '{UPSCALER}' THEN prompt_tokens * 7919 END"
_ANSWER = f"""CASE WHEN model = '{SA2VA}' THEN array_to_string(ARRAY(
        SELECT '<p> ' || label || ' </p> [SEG]' FROM unnest(labels) AS label), ' and ')
    WHEN model <> '{UPSCALER}' THEN 'The picture shows ' || subject || '.' END"""
_FOLDER = "'https://v3.fal.media/files/' || substr(hash, 1, 12)"
_BODY = f"""CASE WHEN status <> 'completed' THEN format('{{"detail": "It ended with %s."}}', error_type)
    WHEN model = '{SA2VA}' THEN format('{{"output": "%s", "masks": [%s]}}', {_ANSWER}, array_to_string(ARRAY(
        SELECT '{{"url": "' || {_FOLDER} || '/' || i || '.png", "content_type": "image/png"}}'
        FROM generate_series(0, cardinality(labels) - 1) AS i), ', '))
    WHEN model = '{UPSCALER}'
    THEN format('{{"image": {{"url": "%s/0.png"}}, "seed": %s, "timings": %s}}', {_FOLDER}, {_SEED}, {_TIMINGS})
    ELSE format('{{"output": "%s", "usage": %s}}', {_ANSWER}, {_USAGE}) END"""
_HTTP_STATUS = "CASE status WHEN 'completed' THEN 200 WHEN 'failed' THEN 422 ELSE 499 END"
_ERROR_TYPE = "CASE status WHEN 'failed' THEN error_type WHEN 'cancelled' THEN 'client_cancelled' END"
_ERROR = f"'It ended with ' || {_ERROR_TYPE} || '.'"

# Each file is a blob of its own: two pictures are seldom the same.
_FILES = f"""FROM timed CROSS JOIN LATERAL (
    SELECT 'mask' AS kind, number - 1 AS index, label FROM unnest(labels) WITH ORDINALITY AS mask (label, number)
    UNION ALL SELECT 'image', 0, NULL WHERE model = '{UPSCALER}'
) AS file
CROSS JOIN LATERAL (
    SELECT encode(sha256((hash || index)::bytea), 'hex') AS sha256,
           (hashtext(hash || index) & 1048575) / 1048576.0 AS part
) AS stored
WHERE status = 'completed'"""
_COPIED = "completed_at + make_interval(secs => 0.2 + submit)"
_TOLD = "completed_at + make_interval(secs => 0.3 + 2 * submit)"

# In an order in which what a row refers to comes before it.
ROWS = (
    """
    INSERT INTO jobs (id, tenant_id, model, provider, priority, webhook_url, metadata, tags, created_at)
    SELECT job_id, tenant_id, model, provider, CASE WHEN n % 9 = 0 THEN 'low' ELSE 'normal' END, webhook_url, metadata,
           tags, created_at
    FROM drawn""",
    f"""
    INSERT INTO inputs (job_id, body)
    SELECT job_id,
           format('{{"image_url": "https://pictures.example.com/%s.jpg", "prompt": "%s %s?"}}', n,
                  CASE model WHEN '{SA2VA}' THEN 'Segment all that is near' ELSE 'What is beside' END, subject)
    FROM drawn""",
    f"""
    INSERT INTO job_marks (tenant_id, name, value, job_id)
    SELECT tenant_id, mark.name, mark.value, job_id FROM drawn AS job CROSS JOIN LATERAL ({MARKS}) AS mark""",
    """
    INSERT INTO live_jobs (job_id, tenant_id, provider, status, duty, due_at, rank, attempt, started_at)
    SELECT job_id, tenant_id, provider, status, CASE status WHEN 'queued' THEN 'submit' ELSE 'report' END,
           -- Far away: who starts the service on these jobs wants them to stay as they are.
           created_at + interval '10 years', 0, CASE status WHEN 'queued' THEN 0 ELSE 1 END,
           CASE status WHEN 'in_progress' THEN started_at END
    FROM timed WHERE live""",
    f"""
    INSERT INTO attempts (job_id, number, provider, state, provider_request_id, claimed_at, answered_at, ended_at,
                          resubmitted_at, http_status)
    SELECT job_id, number, provider,
           CASE WHEN live THEN 'submitted' WHEN number < attempt THEN 'superseded' ELSE status END,
           CASE WHEN number = attempt THEN request_id END, claimed_at, CASE WHEN number = attempt THEN answered_at END,
           CASE WHEN NOT live THEN completed_at END, CASE WHEN number < attempt THEN claimed_at END,
           CASE WHEN number = attempt AND NOT live THEN {_HTTP_STATUS} END
    FROM timed CROSS JOIN LATERAL generate_series(1, attempt) AS number WHERE status <> 'queued'""",
    f"""
    INSERT INTO outcomes (job_id, tenant_id, model, provider, created_at, status, attempt, source, http_status,
                          error_type, error, seed, usage, model_timings, started_at, received_at, completed_at,
                          queued_seconds, submit_seconds, provider_queue_seconds, run_seconds, provider_seconds,
                          webhook_seconds, total_seconds, copy_seconds, callback_seconds, cost)
    SELECT job_id, tenant_id, model, provider, created_at, status, attempt, 'webhook', {_HTTP_STATUS}, {_ERROR_TYPE},
           {_ERROR}, {_SEED}, ({_USAGE})::jsonb, ({_TIMINGS})::jsonb, started_at, received_at, completed_at, queued,
           submit, waited, run, {_rounded("waited + run")}, webhook,
           {_rounded("queued + submit + waited + run + webhook")},
           CASE WHEN status = 'completed' AND (labels <> '{{}}' OR model = '{UPSCALER}')
                THEN {_rounded("0.2 + submit")} END,
           CASE WHEN webhook_url IS NOT NULL THEN {_rounded("0.3 + 2 * submit")} END,
           CASE WHEN status = 'completed' AND provider = 'fal' THEN round((0.0004 + run * 0.0011)::numeric, 6) END
    FROM timed WHERE NOT live""",
    f"""
    INSERT INTO results (job_id, body, text)
    SELECT job_id, convert_to({_BODY}, 'UTF8'), CASE status WHEN 'completed' THEN {_ANSWER} END
    FROM timed WHERE NOT live""",
    """
    INSERT INTO uncounted (job_id, part) SELECT job_id, 'end' FROM drawn WHERE NOT live""",
    f"""
    INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
    SELECT job_id, attempt, 'webhook', received_at, 200, '{{"content-type": "application/json"}}',
           convert_to(format('{{"request_id": "%s", "gateway_request_id": "%s", "status": "%s", "payload": %s}}',
                             request_id, request_id, CASE status WHEN 'completed' THEN 'OK' ELSE 'ERROR' END, {_BODY}),
                      'UTF8'),
           'applied'
    FROM timed WHERE NOT live""",
    f"""
    INSERT INTO blobs (sha256, size, content_type, width, height, created_at)
    SELECT sha256, 4000 + (part * 90000)::int, 'image/png', 1024, 768, {_COPIED} {_FILES}""",
    f"""
    INSERT INTO artifacts (job_id, kind, index, tenant_id, label, source_url, content_type, file_size, width, height,
                           sha256, stored_at, area_fraction, bbox)
    SELECT job_id, kind, index, tenant_id, label, {_FOLDER} || '/' || index || '.png', 'image/png',
           4000 + (part * 90000)::int, 1024, 768, sha256, {_COPIED}, CASE kind WHEN 'mask' THEN part * part END,
           CASE kind WHEN 'mask' THEN ARRAY[0, 0, ceil(1024 * part)::int, ceil(768 * part)::int] END
    {_FILES}""",
    f"""
    INSERT INTO callbacks (job_id, tenant_id, receiver, state, due_at, tries, begun_at, format, body, created_at,
                           ended_at)
    SELECT job_id, tenant_id, 'https://hooks.example.com', 'delivered', completed_at, 1, completed_at, 'fal',
           convert_to(format('{{"request_id": "%s", "status": "%s", "payload": %s}}', job_id,
                             CASE status WHEN 'completed' THEN 'OK' ELSE 'ERROR' END, {_BODY}), 'UTF8'),
           completed_at, {_TOLD}
    FROM timed WHERE NOT live AND webhook_url IS NOT NULL""",
    f"""
    INSERT INTO callback_tries (job_id, at, http_status, seconds)
    SELECT job_id, {_TOLD} - interval '0.1 s', 200, 0.1 FROM timed WHERE NOT live AND webhook_url IS NOT NULL""",
    """
    INSERT INTO job_events (job_id, at, event, status, attempt, note)
    SELECT job_id, change.* FROM timed CROSS JOIN LATERAL (VALUES
        (created_at, 'registered', 'queued', 0, NULL),
        (CASE WHEN status <> 'queued' THEN claimed_at END, 'submitting', 'queued', attempt, NULL),
        (CASE WHEN status <> 'queued' THEN answered_at END, 'accepted', 'submitted', attempt, NULL),
        (CASE WHEN NOT live THEN completed_at END, status, status, attempt, 'webhook')
    ) AS change (at, event, status, attempt, note) WHERE change.at IS NOT NULL""",
)
