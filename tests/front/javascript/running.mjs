import { asked, fal, say } from "./setup.mjs";

const { model, input } = asked;
const run = await fal.run(model, { input });
const got = await fal.run(model, { input, method: "get" });
const stream = await fal.stream(model, { input });
const told = [];
for await (const event of stream) told.push(event);
say({ run, got, told, done: await stream.done() });
