export class Fleet { constructor() {} }
