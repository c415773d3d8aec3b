// The same as app.py, in JavaScript: answers every request with what it was asked. PORT and HOST come from the mesh.
import { createServer } from "node:http";
import { renameSync, writeFileSync } from "node:fs";

const name = process.env.NAME ?? "node";
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const headers = [];
  for (let at = 0; at < request.rawHeaders.length; at += 2)
    headers.push([request.rawHeaders[at], request.rawHeaders[at + 1]]);
  const body = Buffer.concat(chunks).toString("latin1");
  const text = JSON.stringify({ name, method: request.method, target: request.url, headers, body });
  response.writeHead(200, { "server-name": name, "content-length": Buffer.byteLength(text) }).end(text);
});
server.listen(Number(process.env.PORT), process.env.HOST, () => {
  if (!process.env.SHEET) return;
  writeFileSync(`${process.env.SHEET}.new`, JSON.stringify(process.env));
  renameSync(`${process.env.SHEET}.new`, process.env.SHEET);
});
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
