import { asked, fal, say } from "./setup.mjs";

try {
  await fal[asked.call](asked.model, { input: asked.input });
  say({ failed: false });
} catch (error) {
  const { name, status, message, body, requestId } = error;
  say({ failed: true, name, status, message, body, requestId, fields: error.fieldErrors });
}
