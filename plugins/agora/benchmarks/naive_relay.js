// The peer: a relay on Node's `ws` that does nothing but look up `to` and pass the payload on. No checks, no accounting.
const { WebSocketServer } = require("ws");
const agents = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false }, () => {
  console.log(server.address().port);
});
server.on("connection", (socket) => {
  let id = "";
  socket.on("message", (data) => {
    const frame = JSON.parse(data);
    if (frame.type === "register") {
      id = frame.id;
      agents.set(id, socket);
      socket.send(JSON.stringify({ type: "registered", id }));
    } else {
      const target = agents.get(frame.to);
      if (target) target.send(JSON.stringify({ type: "message", from: id, payload: frame.payload }));
    }
  });
  socket.on("close", () => agents.delete(id));
});
